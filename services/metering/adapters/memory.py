"""The ledger in memory, for tests of what stands on it; it keeps the promises of the ports."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

from kit.clock import unix_microseconds
from kit.errors import LogRewound
from kit.feed import START, Head, Page, Position
from services.metering.application.ports import Interval, Totals
from services.metering.domain import limits
from services.metering.domain.acceptance import Outcome, Recorded, accept
from services.metering.domain.digests import identity_digest
from services.metering.domain.events import LedgerEvent, Meter, UsageEvent


class MemoryLedger:
    """LedgerWriter, LedgerReader and LedgerHeads over dictionaries."""

    def __init__(self) -> None:
        self._events: dict[str, list[LedgerEvent]] = defaultdict(list)
        self._recorded: dict[str, dict[bytes, Recorded]] = defaultdict(dict)

    async def append(self, events: Sequence[UsageEvent], *, now: datetime) -> Sequence[Outcome]:
        """As LedgerWriter."""
        outcomes: dict[int, Outcome] = {}
        indices: dict[str, list[int]] = defaultdict(list)
        for index, event in enumerate(events):
            indices[event.subject.organization_id].append(index)
        for organization_id, places in indices.items():
            ledger, recorded = self._events[organization_id], self._recorded[organization_id]
            batch = [events[place] for place in places]
            known = {digest: recorded[digest] for event in batch if (digest := identity_digest(event)) in recorded}
            acceptance = accept(batch, known, head_sequence=len(ledger), now=now)
            commit_id = secrets.token_hex(8)
            for fresh in acceptance.fresh:
                recorded[fresh.identity] = Recorded(fresh.sequence, fresh.content)
                ledger.append(LedgerEvent(fresh.sequence, commit_id, unix_microseconds(now), fresh.event))
            outcomes.update(zip(places, acceptance.outcomes, strict=True))
        return [outcomes[index] for index in range(len(events))]

    async def totals(self, organization_id: str, interval: Interval, *, as_of_sequence: int | None) -> Totals:
        """As LedgerReader."""
        ledger = self._events[organization_id]
        position = self._position(organization_id, as_of_sequence)
        quantities: dict[str, int] = defaultdict(int)
        for entry in ledger[: position.sequence]:
            if _inside(entry.event, interval):
                for measurement in entry.event.measurements:
                    quantities[measurement.meter] += measurement.quantity
        return Totals(dict(sorted(quantities.items())), position)

    async def read(self, organization_id: str, after: Position) -> AsyncIterator[Page[LedgerEvent]]:
        """As LedgerReader."""
        ledger = self._events[organization_id]
        if after.sequence and self._position(organization_id, after.sequence) != after:
            raise LogRewound(sequence=after.sequence)
        for start in range(after.sequence, len(ledger), limits.PAGE_EVENTS):
            entries = tuple(ledger[start : start + limits.PAGE_EVENTS])
            yield Page(entries, Position(entries[-1].sequence, entries[-1].commit_id))

    async def heads(self) -> Sequence[Head]:
        """As LedgerHeads."""
        return [Head(key, self._position(key, None)) for key, ledger in self._events.items() if ledger]

    def _position(self, organization_id: str, sequence: int | None) -> Position:
        ledger = self._events[organization_id]
        reached = len(ledger) if sequence is None else min(sequence, len(ledger))
        return Position(reached, ledger[reached - 1].commit_id) if reached else START


class MemoryMeterCatalog:
    """A fixed catalog of meters."""

    def __init__(self, *meters: Meter) -> None:
        self._meters = {meter.name: meter for meter in meters}

    async def meters(self) -> Mapping[str, Meter]:
        """As MeterCatalog."""
        return self._meters


def _inside(event: UsageEvent, interval: Interval) -> bool:
    moment_us = (event.event_time_ns or 0) // 1_000
    after_start = interval.start is None or moment_us >= unix_microseconds(interval.start)
    return after_start and (interval.end is None or moment_us < unix_microseconds(interval.end))
