"""Quota's store and its peers in memory, for tests of what stands on them; they keep the promises of the ports."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kit.clock import Clock, unix_microseconds
from kit.errors import DependencyUnavailable, LogRewound, OutOfRetention, RequestIdReused
from kit.feed import START, Head, Page, Position
from services.quota.application.ports import (
    Answer,
    CountersMissing,
    CounterState,
    EntitlementOutdated,
    Freed,
    InForce,
    Instant,
    Overrun,
    Readings,
    Reservation,
    Snapshot,
)
from services.quota.domain.checks import Check, Mode, content_digest
from services.quota.domain.decisions import decide, hold
from services.quota.domain.entitlements import Entitlement, Period
from services.quota.domain.limits import Counter, Usage
from services.quota.domain.maxima import COUNTER_MAX, SWEPT_AT_ONCE_MAX
from services.quota.domain.usage import Draw, Tally, UsageEntry, tally

_REMEMBERED_US = 3_600_000_000


@dataclass(slots=True)
class _Reservation:
    digest: str
    answer: Answer
    expire_us: int
    held: dict[Counter, int]
    ended_us: int | None = None
    expired_at_head: int | None = None


@dataclass(slots=True)
class _Organization:
    entitlement: Entitlement | None = None
    read_up_to: Position = START
    state: CounterState | None = None
    used: dict[Counter, int] = field(default_factory=dict)
    held: dict[Counter, int] = field(default_factory=lambda: defaultdict(int))
    reservations: dict[str, _Reservation] = field(default_factory=dict)

    def open_by_expiry(self) -> list[tuple[int, str]]:
        return sorted((each.expire_us, name) for name, each in self.reservations.items() if each.ended_us is None)

    def end(self, reservation: _Reservation, now_us: int) -> None:
        for counter, remaining in reservation.held.items():
            self.held[counter] -= remaining
            reservation.held[counter] = 0
        reservation.ended_us = now_us


class MemoryCounters:
    """Counters, CounterUpkeep, Expiries and EntitlementShelf over dictionaries, by a clock that is handed in."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._organizations: dict[str, _Organization] = defaultdict(_Organization)

    def lose_everything(self) -> None:
        """As FLUSHALL."""
        self._organizations.clear()

    async def check(self, check: Check, entitlement: Entitlement, *, period_confirmed: bool = False) -> Answer:
        """As Counters."""
        organization = self._organizations[check.organization_id]
        now_us = unix_microseconds(self._clock.now())
        if check.mode is Mode.RESERVE:
            first = self._first_answer(organization, check, now_us)
            if first is not None:
                return first
        usage, sequence = self._settled(organization, entitlement, now_us, period_confirmed=period_confirmed)
        decision = decide(entitlement.limits, usage, check, standing=entitlement.standing)
        reserves = check.mode is Mode.RESERVE and not decision.is_denied
        expire_us = now_us + check.reserve_us
        answer = Answer(
            decision=decision,
            reservation=Reservation(check.request_id, expire_us) if reserves else None,
            entitlement_version=entitlement.version,
            period=entitlement.period,
            applied_sequence=sequence,
            decided_us=now_us,
            instant=self._instant(organization, now_us),
        )
        if not reserves:
            return answer
        held: dict[Counter, int] = {}
        for consumption in check.consumptions:
            before = organization.held[consumption.counter]
            organization.held[consumption.counter] = hold(before, consumption.holdable)
            held[consumption.counter] = organization.held[consumption.counter] - before
        organization.reservations[check.request_id] = _Reservation(content_digest(check), answer, expire_us, held)
        return replace(answer, instant=self._instant(organization, now_us))

    async def read(
        self, entitlement: Entitlement, counters: Sequence[Counter], *, period_confirmed: bool = False
    ) -> Readings:
        """As Counters."""
        organization = self._organizations[entitlement.organization_id]
        now_us = unix_microseconds(self._clock.now())
        usage, sequence = self._settled(organization, entitlement, now_us, period_confirmed=period_confirmed)
        readings = {counter: usage.get(counter, Usage()) for counter in counters}
        return Readings(readings, sequence, self._instant(organization, now_us))

    async def state(self, organization_id: str) -> CounterState | None:
        """As CounterUpkeep."""
        return self._organizations[organization_id].state

    async def reset(
        self,
        entitlement: Entitlement,
        *,
        expected: CounterState | None,
        position: Position,
        used: Mapping[Counter, int],
    ) -> bool:
        """As CounterUpkeep."""
        organization = self._organizations[entitlement.organization_id]
        if organization.state != expected or organization.entitlement != entitlement:
            return False
        epoch = organization.state.epoch if organization.state else secrets.token_hex(8)
        organization.state = CounterState(epoch, position, entitlement.period)
        organization.used = {counter: min(quantity, COUNTER_MAX) for counter, quantity in used.items()}
        return True

    async def apply(
        self, organization_id: str, page: Tally, *, expected: CounterState, position: Position
    ) -> Overrun | None:
        """As CounterUpkeep."""
        organization = self._organizations[organization_id]
        if organization.state != expected:
            return None
        for counter, quantity in page.used.items():
            sum_used = organization.used.get(counter, 0) + quantity
            organization.used[counter] = max(0, min(sum_used, COUNTER_MAX))
        beyond_count = after_count = 0
        for reservation_id, drawn in page.draws.items():
            reservation = organization.reservations.get(reservation_id)
            if reservation is None or reservation.ended_us is not None:
                after_count += bool(drawn.quantities)
            else:
                beyond_count += self._draw(organization, reservation, drawn)
        organization.state = replace(expected, position=position)
        return Overrun(beyond_count, after_count)

    async def due(self, organization_id: str) -> Sequence[str]:
        """As Expiries."""
        now_us = unix_microseconds(self._clock.now())
        by_expiry = self._organizations[organization_id].open_by_expiry()
        return [name for expire_us, name in by_expiry if expire_us <= now_us][:SWEPT_AT_ONCE_MAX]

    async def free(self, organization_id: str, reservation_ids: Sequence[str], *, head_sequence: int) -> Freed:
        """As Expiries."""
        organization = self._organizations[organization_id]
        now_us = unix_microseconds(self._clock.now())
        applied = organization.state.position.sequence if organization.state else 0
        freed_count = waiting_count = 0
        for name in reservation_ids:
            reservation = organization.reservations.get(name)
            if reservation is None or reservation.ended_us is not None or reservation.expire_us > now_us:
                continue
            if reservation.expired_at_head is None:
                reservation.expired_at_head = head_sequence
            if applied >= min(reservation.expired_at_head, head_sequence):
                organization.end(reservation, now_us)
                freed_count += 1
            else:
                waiting_count += 1
        return Freed(freed_count, waiting_count, self._instant(organization, now_us))

    async def entitlement(self, organization_id: str) -> Entitlement | None:
        """As EntitlementShelf."""
        return self._organizations[organization_id].entitlement

    async def read_up_to(self, organization_id: str) -> Position | None:
        """As EntitlementShelf."""
        organization = self._organizations[organization_id]
        return None if organization.entitlement is None else organization.read_up_to

    async def put(self, found: InForce) -> Entitlement:
        """As EntitlementShelf."""
        organization = self._organizations[found.entitlement.organization_id]
        if organization.entitlement is None or found.entitlement.supersedes(organization.entitlement):
            organization.entitlement = found.entitlement
        is_known = found.entitlement.version >= organization.entitlement.version
        if is_known and found.position.sequence > organization.read_up_to.sequence:
            organization.read_up_to = found.position
        return organization.entitlement

    async def replace(self, found: InForce, *, expected: Position) -> bool:
        """As EntitlementShelf."""
        organization = self._organizations[found.entitlement.organization_id]
        if organization.entitlement is None or organization.read_up_to != expected:
            return False
        organization.entitlement, organization.read_up_to = found.entitlement, found.position
        return True

    def _first_answer(self, organization: _Organization, check: Check, now_us: int) -> Answer | None:
        first = organization.reservations.get(check.request_id)
        if first is None or (first.ended_us is not None and now_us > first.ended_us + _REMEMBERED_US):
            return None
        if first.digest != content_digest(check):
            raise RequestIdReused(request_id=check.request_id)
        return replace(first.answer, instant=self._instant(organization, now_us))

    def _settled(
        self, organization: _Organization, entitlement: Entitlement, now_us: int, *, period_confirmed: bool
    ) -> tuple[dict[Counter, Usage], int]:
        period_is_over = now_us >= entitlement.period.end_us and not period_confirmed
        if organization.entitlement != entitlement or period_is_over:
            raise EntitlementOutdated
        if organization.state is None or organization.state.period != entitlement.period:
            raise CountersMissing
        counters = organization.used.keys() | organization.held.keys()
        usage = {each: Usage(organization.used.get(each, 0), organization.held[each]) for each in counters}
        return usage, organization.state.position.sequence

    def _draw(self, organization: _Organization, reservation: _Reservation, draw: Draw) -> bool:
        is_beyond = False
        for counter, quantity in draw.quantities.items():
            if counter in reservation.held:
                drawn = min(quantity, reservation.held[counter])
                reservation.held[counter] -= drawn
                organization.held[counter] -= drawn
                is_beyond = is_beyond or quantity > drawn
        if draw.is_final:
            organization.end(reservation, unix_microseconds(self._clock.now()))
        return is_beyond

    def _instant(self, organization: _Organization, now_us: int) -> Instant:
        by_expiry = organization.open_by_expiry()
        return Instant(now_us, by_expiry[0][0] if by_expiry else None)


class MemoryLedger:
    """Ledger over lists that a test appends to, each append one commit. Pages are short, so that there are several."""

    def __init__(self, *, page_entries: int = 3) -> None:
        self._page_entries = page_entries
        self._entries: dict[str, list[tuple[UsageEntry, str]]] = defaultdict(list)
        self._horizons: dict[str, int] = defaultdict(int)

    def append(self, organization_id: str, *entries: UsageEntry) -> None:
        """Records entries, giving them their sequences."""
        ledger, commit_id = self._entries[organization_id], secrets.token_hex(8)
        for entry in entries:
            ledger.append((replace(entry, sequence=len(ledger) + 1), commit_id))

    def rewind(self, organization_id: str, *, to: int) -> None:
        """Forgets what was recorded after a sequence, as a restored backup does."""
        del self._entries[organization_id][to:]

    def drop(self, organization_id: str, *, upto: int) -> None:
        """Keeps the entries up to a sequence for snapshots alone, as retention does."""
        self._horizons[organization_id] = upto

    async def watch(self) -> AsyncIterator[Sequence[Head]]:
        """As Feed; ends after the heads of now."""
        yield [Head(key, self._position(key, len(ledger))) for key, ledger in self._entries.items() if ledger]

    async def read(self, key: str, after: Position) -> AsyncIterator[Page[UsageEntry]]:
        """As Feed."""
        ledger = self._entries[key]
        if after.sequence < self._horizons[key]:
            raise OutOfRetention(problem="the next events are gone")
        if after != (self._position(key, after.sequence) if after.sequence <= len(ledger) else None):
            raise LogRewound(sequence=after.sequence)
        for start in range(after.sequence, len(ledger), self._page_entries):
            end = min(start + self._page_entries, len(ledger))
            yield Page(tuple(entry for entry, _ in ledger[start:end]), self._position(key, end))

    async def snapshot(self, organization_id: str, period: Period) -> Snapshot:
        """As Ledger."""
        ledger = self._entries[organization_id]
        totals = tally((entry for entry, _ in ledger), period).used
        return Snapshot(totals, self._position(organization_id, len(ledger)))

    async def head(self, organization_id: str) -> Position:
        """As Ledger."""
        return self._position(organization_id, len(self._entries[organization_id]))

    def _position(self, organization_id: str, sequence: int) -> Position:
        return Position(sequence, self._entries[organization_id][sequence - 1][1]) if sequence else START


class MemoryEntitlements:
    """EntitlementSource, and kit.feed.Feed of entitlements, over what a test sets."""

    def __init__(self) -> None:
        self._logs: dict[str, list[InForce]] = {}

    def set(self, entitlement: Entitlement) -> None:
        """Puts it in force, by one more entry of the log."""
        entries = self._logs.setdefault(entitlement.organization_id, [])
        entries.append(InForce(entitlement, Position(len(entries) + 1, secrets.token_hex(8))))

    def rewind(self, organization_id: str, *, to: int) -> None:
        """Forgets the entries after a sequence, as a restored backup does."""
        del self._logs[organization_id][to:]

    async def in_force(self, organization_id: str) -> InForce:
        """As EntitlementSource; an organization that nothing was set for cannot be answered."""
        if organization_id not in self._logs:
            raise DependencyUnavailable(dependency="billing")
        return self._logs[organization_id][-1]

    async def watch(self) -> AsyncIterator[Sequence[Head]]:
        """As Feed; ends after the heads of now."""
        yield [Head(key, entries[-1].position) for key, entries in self._logs.items()]

    async def read(self, key: str, after: Position) -> AsyncIterator[Page[Entitlement]]:
        """As Feed."""
        entries = self._logs[key]
        if after.sequence and after not in [each.position for each in entries]:
            raise LogRewound(sequence=after.sequence)
        yield Page((entries[-1].entitlement,), entries[-1].position)


class MemoryMeters:
    """A fixed catalog of meters."""

    def __init__(self, *names: str) -> None:
        self._names = frozenset(names)

    async def unknown(self, names: Collection[str]) -> Collection[str]:
        """As MeterCatalog."""
        return [name for name in names if name not in self._names]
