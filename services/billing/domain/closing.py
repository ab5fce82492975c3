"""Which usage still has to be invoiced, and so must be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.billing.domain import limits
from services.billing.domain.periods import nth_start


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """How far the periods of a subscription are closed."""

    plan_id: str
    plan_version: int
    anchor: datetime
    end_time: datetime | None
    """When it ended, or was superseded; None: it is in force."""
    closed_through: Mapping[datetime, int]
    """The last event that the invoice of a period could include, by the period's start."""

    def first_open(self) -> datetime | None:
        """Where its first period begins that has no invoice; None: all have one, and no more will come."""
        months = 0
        while self.end_time is None or nth_start(self.anchor, months) < self.end_time:
            start = nth_start(self.anchor, months)
            if start not in self.closed_through:
                return start
            months += 1
        return None


@dataclass(frozen=True, slots=True)
class InvoicedUsage:
    """What no invoice needs any more: events up to a sequence that happened before a moment."""

    sequence: int
    before: datetime


def invoiced_usage(billed: Sequence[Closing], *, head: int, now: datetime) -> InvoicedUsage:
    """billed: the closings of an organization's subscriptions that can bill usage. head: its last event.

    Events after the last invoice's are not invoiced, whenever they happened: an adjustment may follow. Without any such
    subscription there is nothing to invoice, but one may yet start as far back as subscriptions may.
    """
    opens = [first for closing in billed if (first := closing.first_open()) is not None]
    before = min([now - limits.START_BACK, *opens])
    through = [sequence for closing in billed for sequence in closing.closed_through.values()]
    return InvoicedUsage(min(head, max(through, default=0)) if billed else head, before)
