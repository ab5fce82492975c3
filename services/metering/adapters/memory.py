"""The ledger in memory, for tests of what stands on it; it keeps the promises of the ports."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime

from kit.clock import unix_microseconds
from kit.errors import LogRewound
from kit.feed import START, Head, Page, Position
from kit.head_watch import Look
from services.metering.application.ports import EventPage, Interval, Totals
from services.metering.domain import limits
from services.metering.domain.acceptance import Candidate, Outcome, Recorded, Target, accept, candidate
from services.metering.domain.digests import CONTENT_VERSION
from services.metering.domain.events import LedgerEvent, UsageEvent
from services.metering.domain.grouping import SubjectPart, value_of
from services.metering.domain.members import LevelMeters, MemberTotal, largest
from services.metering.domain.meters import Aggregation, Meter, MeterRequest, decide
from services.metering.domain.retention import raw_windows, refuse_before, refuse_finer
from services.metering.domain.rollups import BUCKET_US
from services.metering.domain.usage_query import UsageQuery
from services.metering.domain.windows import Window


class MemoryLedger:
    """LedgerWriter, LedgerReader and LedgerHeads over dictionaries."""

    def __init__(self) -> None:
        self._events: dict[str, list[LedgerEvent]] = defaultdict(list)
        self._recorded: dict[str, dict[bytes, Recorded]] = defaultdict(dict)
        self._settled: dict[str, set[int]] = defaultdict(set)
        self._volumes: dict[str, int] = defaultdict(int)
        self._horizons: dict[str, int] = defaultdict(int)

    async def append(self, events: Sequence[UsageEvent], *, now: datetime) -> Sequence[Outcome]:
        """As LedgerWriter."""
        outcomes: dict[int, Outcome] = {}
        indices: dict[str, list[int]] = defaultdict(list)
        for index, event in enumerate(events):
            indices[event.subject.organization_id].append(index)
        for organization_id, places in indices.items():
            batch = [candidate(events[place]) for place in places]
            outcomes.update(zip(places, self._append(organization_id, batch, now), strict=True))
        return [outcomes[index] for index in range(len(events))]

    def _append(self, organization_id: str, batch: Sequence[Candidate], now: datetime) -> Sequence[Outcome]:
        ledger, recorded = self._events[organization_id], self._recorded[organization_id]
        settled = self._settled[organization_id]
        horizon = self._horizons[organization_id]
        targets = {
            each.target: Target(
                sequence,
                None if sequence <= horizon else ledger[sequence - 1].event,
                is_settled=sequence in settled,
            )
            for each in batch
            if each.target in recorded and (sequence := recorded[each.target].sequence)
        }
        volume = self._volumes[organization_id]
        acceptance = accept(batch, recorded, targets, head_sequence=len(ledger), volume=volume, now=now)
        self._volumes[organization_id] = acceptance.volume
        commit_id = secrets.token_hex(8)
        receive_time_us = max([unix_microseconds(now), *(entry.receive_time_us for entry in ledger[-1:])])
        for fresh in acceptance.fresh:
            recorded[fresh.candidate.identity] = Recorded(fresh.sequence, fresh.candidate.content, CONTENT_VERSION)
            if fresh.target is not None:
                settled.update((fresh.sequence, fresh.target.sequence))
            ledger.append(fresh.entry(commit_id, receive_time_us))
        return acceptance.outcomes

    async def totals(
        self,
        organization_id: str,
        interval: Interval,
        *,
        as_of_sequence: int | None,
        levels: Sequence[LevelMeters] = (),
        members_max: int = limits.SNAPSHOT_MEMBERS_MAX,
    ) -> Totals:
        """As LedgerReader."""
        entries, position = self.known(organization_id, as_of_sequence=as_of_sequence)
        edges = (None if edge is None else unix_microseconds(edge) for edge in (interval.start, interval.end))
        windows = (Window(*edges),)
        for group_by in ((), *((asked.level,) for asked in levels)):
            query = UsageQuery(meters=(), windows=windows, group_by=group_by)
            self.refuse_dropped(organization_id, query, Aggregation.SUM, lambda counted: bool(counted.measurements))
        quantities: dict[str, int] = defaultdict(int)
        members: dict[tuple[SubjectPart, str, str], int] = defaultdict(int)
        for event in (entry.counted for entry in entries if _inside(entry.counted, interval)):
            for measurement in event.measurements:
                quantities[measurement.meter] += measurement.quantity
                for asked in levels:
                    if measurement.meter in asked.meters:
                        members[asked.level, value_of(event, asked.level), measurement.meter] += measurement.quantity
        rows = [MemberTotal(*key, quantity) for key, quantity in members.items() if key[1] and quantity]
        return Totals(dict(sorted(quantities.items())), position, largest(rows, at_most=members_max))

    async def read(self, organization_id: str, after: Position) -> AsyncIterator[Page[LedgerEvent]]:
        """As LedgerReader."""
        ledger = self._events[organization_id]
        if ledger and self._position(organization_id, after.sequence) != after:
            raise LogRewound(sequence=after.sequence)
        for start in range(after.sequence, len(ledger), limits.PAGE_EVENTS):
            entries = tuple(ledger[start : start + limits.PAGE_EVENTS])
            yield Page(entries, Position(entries[-1].sequence, entries[-1].commit_id))

    async def page(self, organization_id: str, interval: Interval, *, after_sequence: int, count: int) -> EventPage:
        """As LedgerReader."""
        horizon = self._horizons[organization_id]
        following = self._events[organization_id][max(after_sequence, horizon) :]
        return EventPage([entry for entry in following if _inside(entry.counted, interval)][:count], horizon)

    async def heads(self, mark: str) -> Look:
        """As LedgerHeads; always every head, whatever the mark."""
        return Look([Head(key, self._position(key, None)) for key, ledger in self._events.items() if ledger], mark)

    def known(self, organization_id: str, *, as_of_sequence: int | None) -> tuple[Sequence[LedgerEvent], Position]:
        """Every entry up to a sequence, with those that are dropped: this fake keeps them, in place of sealed totals.
        Raises OutOfRetention.
        """
        position = self._position(organization_id, as_of_sequence)
        return self._events[organization_id][: position.sequence], position

    def refuse_dropped(
        self, organization_id: str, query: UsageQuery, aggregation: Aggregation, counts: Callable[[UsageEvent], bool]
    ) -> None:
        """Raises OutOfRetention when an entry that counts is dropped, and no sum of buckets replaces it."""
        for entry in self._events[organization_id][: self._horizons[organization_id]]:
            if counts(entry.counted) and any(
                _shares_bucket(entry.counted, window) for window in raw_windows(query, aggregation)
            ):
                raise refuse_finer()

    def drop(self, organization_id: str, *, upto: int) -> None:
        """Moves the horizon."""
        self._horizons[organization_id] = upto

    def horizon(self, organization_id: str) -> int:
        """Up to where raw events are gone."""
        return self._horizons[organization_id]

    def _position(self, organization_id: str, sequence: int | None) -> Position:
        ledger = self._events[organization_id]
        if ledger and sequence is not None:
            refuse_before(Position(self._horizons[organization_id], ""), sequence)
        reached = len(ledger) if sequence is None else min(sequence, len(ledger))
        return Position(reached, ledger[reached - 1].commit_id) if reached else START


class MemoryMeterCatalog:
    """MeterRegistry over a dictionary."""

    def __init__(self, *meters: Meter) -> None:
        self._meters = {meter.name: meter for meter in meters}
        self._requests: dict[str, str] = {}

    async def meters(self) -> Mapping[str, Meter]:
        """As MeterRegistry."""
        return dict(self._meters)

    async def add(self, request: MeterRequest) -> Meter:
        """As MeterRegistry."""
        meter = decide(request, self._meters, remembered=self._requests.get(request.request_id))
        self._requests[request.request_id] = request.content
        if meter is not None:
            self._meters[meter.name] = meter
        return request.meter


def _shares_bucket(event: UsageEvent, window: Window) -> bool:
    bucket_us = (event.event_time_ns or 0) // 1_000 // BUCKET_US * BUCKET_US
    return (window.start_us is None or bucket_us + BUCKET_US > window.start_us) and (
        window.end_us is None or bucket_us < window.end_us
    )


def _inside(event: UsageEvent, interval: Interval) -> bool:
    moment_us = (event.event_time_ns or 0) // 1_000
    after_start = interval.start is None or moment_us >= unix_microseconds(interval.start)
    return after_start and (interval.end is None or moment_us < unix_microseconds(interval.end))
