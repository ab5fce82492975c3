"""List usage events: one organization's ledger, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kit.errors import InvalidField, LimitExceeded
from services.metering.application.ports import Interval, LedgerReader
from services.metering.domain import limits
from services.metering.domain.events import LedgerEvent


@dataclass(frozen=True, slots=True)
class ListedEvents:
    """A page, and the sequence that the next one comes after; None: this is the last."""

    entries: Sequence[LedgerEvent]
    next_after: int | None
    first_kept: int
    """The first sequence of which the event is kept; 1: all are."""


class ListUsageEvents:
    """Lists an interval of event time."""

    def __init__(self, ledger: LedgerReader) -> None:
        self._ledger = ledger

    async def __call__(
        self, organization_id: str, interval: Interval, *, after_sequence: int, page_size: int
    ) -> ListedEvents:
        """The next events of the interval, in sequence. Sequences are unique, so pages skip and repeat nothing, also
        while more is recorded: that comes on later pages. page_size 0 means LISTED_EVENTS. Raises InvalidField,
        LimitExceeded and DependencyUnavailable.
        """
        if page_size < 0:
            raise InvalidField(field="page_size", problem="negative")
        if page_size > limits.LISTED_EVENTS_MAX:
            raise LimitExceeded(what="page_size", actual=page_size, maximum=limits.LISTED_EVENTS_MAX)
        count = page_size or limits.LISTED_EVENTS
        page = await self._ledger.page(organization_id, interval, after_sequence=after_sequence, count=count + 1)
        entries = page.entries[:count]
        next_after = entries[-1].sequence if len(page.entries) > count else None
        return ListedEvents(entries, next_after, first_kept=page.horizon + 1)
