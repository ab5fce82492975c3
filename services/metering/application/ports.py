"""What the use cases of metering need of the world."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kit.feed import Head, Page, Position
from services.metering.domain.acceptance import Outcome
from services.metering.domain.events import LedgerEvent, Meter, UsageEvent


@dataclass(frozen=True, slots=True)
class Interval:
    """A half-open interval of event time; None leaves a side open."""

    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Quantities by meter in base units, and the position of the ledger that they include."""

    quantities: Mapping[str, int]
    position: Position


class LedgerWriter(Protocol):
    """Appends to the ledgers of organizations."""

    async def append(self, events: Sequence[UsageEvent], *, now: datetime) -> Sequence[Outcome]:
        """Records sound events of any organizations in one transaction; outcomes in the order given.

        When it returns, what is ACCEPTED is committed and synced. Sequences are gapless per organization and in
        commit order. The same batch again, or at the same time elsewhere, records nothing twice. Raises
        DependencyUnavailable when the outcome is unknown; the same batch again resolves it.
        """
        ...


class LedgerReader(Protocol):
    """Reads one organization's ledger."""

    async def totals(self, organization_id: str, interval: Interval, *, as_of_sequence: int | None) -> Totals:
        """Exact totals of the events in the interval, up to as_of_sequence (None: the head), in one snapshot."""
        ...

    def read(self, organization_id: str, after: Position) -> AsyncIterator[Page[LedgerEvent]]:
        """The events after a position up to the head, in sequence. Raises LogRewound for a position that is not in
        this ledger.
        """
        ...


class LedgerHeads(Protocol):
    """Reads how far every ledger reaches."""

    async def heads(self) -> Sequence[Head]:
        """Every organization's head."""
        ...


class MeterCatalog(Protocol):
    """Knows the meters."""

    async def meters(self) -> Mapping[str, Meter]:
        """Every meter by name."""
        ...
