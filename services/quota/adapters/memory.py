"""Quota's store and its peers in memory, for tests of what stands on them; they keep the promises of the ports."""

from __future__ import annotations

import secrets
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kit.clock import Clock, unix_microseconds
from kit.errors import DependencyUnavailable, LogRewound, NotFound, OutOfRetention, RequestIdReused
from kit.feed import START, Head, Page, Position
from services.quota.application.ports import (
    Answer,
    CheckGroup,
    Committed,
    CountersBehind,
    CountersMissing,
    CounterState,
    Extended,
    Freed,
    Grant,
    Holds,
    InForce,
    Instant,
    Kept,
    Overrun,
    Ranking,
    Rate,
    Readings,
    Recount,
    Reservation,
    Snapshot,
    TermsOutdated,
)
from services.quota.domain.checks import Check, Mode, content_digest, matching, require_plain_consumptions
from services.quota.domain.decisions import (
    NOTHING_DRAWN,
    Counted,
    Decision,
    Outcome,
    conclude,
    decide,
    decide_all,
    holdable,
)
from services.quota.domain.entitlements import Entitlement, Period, Standing
from services.quota.domain.errors import ReservationEnded
from services.quota.domain.limits import Counter, LevelMeter, Scope, Usage, most
from services.quota.domain.maxima import (
    COUNTER_MAX,
    REMEMBERED_AFTER_END_US,
    REMEMBERED_CONSUMPTION_US,
    SETTLE_US,
    SWEPT_AT_ONCE_MAX,
    TOMBSTONES_MAX,
)
from services.quota.domain.reservations import Settlement, growth, overrun, settle
from services.quota.domain.seen import SeenSequences
from services.quota.domain.terms import OwnLimits, Terms
from services.quota.domain.usage import Draw, Tally, UsageEntry, tally
from services.quota.domain.windows import Slots, WindowCounter, admitted_at


@dataclass(slots=True)
class _Reservation:
    digest: str
    answer: Answer
    scopes: tuple[Scope, ...]
    expire_us: int
    held: dict[str, int]
    granted: dict[str, int]
    """All that was ever, up to the maximum of a counter."""
    targets: dict[str, int]
    """What it held when it was last granted something, whatever events have drawn since."""
    drawn: dict[str, int]
    ended_us: int | None = None
    ended_by_time: bool = False
    expired_at_head: int | None = None
    is_settling: bool = False
    is_releasing: bool = False
    is_restored: bool = False

    @property
    def is_over(self) -> bool:
        """Whether it ends, or has, otherwise than by time."""
        return self.is_settling or self.is_releasing or (self.ended_us is not None and not self.ended_by_time)

    def draw_before(self, drawn: Mapping[str, int]) -> None:
        """Notes what events took before it was made anew."""
        self.drawn = {meter: drawn.get(meter, 0) for meter in self.granted}

    def draw(self, draw: Draw) -> None:
        """Notes what events took of it."""
        for meter, quantity in draw.quantities.items():
            self.drawn[meter] = min(self.drawn.get(meter, 0) + quantity, COUNTER_MAX)


@dataclass(slots=True)
class _Tombstone:
    drawn: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    is_final: bool = False


@dataclass(slots=True)
class _Organization:
    entitlement: Entitlement | None = None
    own: OwnLimits | None = None
    read_up_to: Position = START
    state: CounterState | None = None
    holds_are_lost: bool = False
    used: dict[Counter, int] = field(default_factory=dict)
    held: dict[Counter, int] = field(default_factory=lambda: defaultdict(int))
    windows: dict[WindowCounter, Slots] = field(default_factory=dict)
    reservations: dict[str, _Reservation] = field(default_factory=dict)
    tombstones: dict[str, _Tombstone] = field(default_factory=lambda: defaultdict(_Tombstone))

    def open_by_expiry(self) -> list[tuple[int, str]]:
        return sorted((each.expire_us, name) for name, each in self.reservations.items() if each.ended_us is None)

    def hold(self, scopes: Sequence[Scope], meter: str, quantity: int) -> None:
        for scope in scopes:
            self.held[Counter(scope, meter)] += quantity

    def end(self, reservation: _Reservation, now_us: int) -> None:
        for meter, remaining in reservation.held.items():
            self.hold(reservation.scopes, meter, -remaining)
            reservation.held[meter] = 0
        reservation.ended_us = now_us

    def remember(self, reservation_id: str, drawn: Draw) -> None:
        if reservation_id in self.tombstones or len(self.tombstones) < TOMBSTONES_MAX:
            tombstone = self.tombstones[reservation_id]
            tombstone.is_final = tombstone.is_final or drawn.is_final
            for meter, quantity in drawn.quantities.items():
                tombstone.drawn[meter] += quantity

    def drawn_before(self, check: Check) -> Mapping[str, int]:
        tombstone = self.tombstones.get(check.request_id, _Tombstone())
        return {each.meter: each.holdable for each in check.consumptions} if tombstone.is_final else tombstone.drawn

    def counted(self, windows: Collection[WindowCounter], now_us: int) -> Counted:
        counters = self.used.keys() | self.held.keys()
        usage = {each: Usage(self.used.get(each, 0), self.held[each]) for each in counters}
        return Counted(usage, {each: admitted_at(each.window, self.windows.get(each, {}), now_us) for each in windows})


class MemoryCounters:
    """All of quota's stores over dictionaries, by a clock that is handed in."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen = SeenSequences()
        self._organizations: dict[str, _Organization] = defaultdict(_Organization)

    def lose_everything(self) -> None:
        """As FLUSHALL."""
        self._organizations.clear()

    def lose_holds(self, organization_id: str) -> None:
        """As when the part that holds is evicted: reservations are void, and what windows count stays."""
        organization = self._organizations[organization_id]
        organization.holds_are_lost = organization.state is not None
        organization.held.clear()
        organization.tombstones.clear()
        for name, each in list(organization.reservations.items()):
            if each.scopes:
                del organization.reservations[name]

    async def check(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer:
        """As Counters."""
        organization = self._organizations[check.organization_id]
        now_us = unix_microseconds(self._clock.now())
        first = self._first_answer(organization, check, now_us)
        if first is not None:
            return first
        drawn = organization.drawn_before(check)
        decision, counted, answer = self._decided(
            organization, check, terms, now_us, period_confirmed=period_confirmed, drawn=drawn
        )
        if decision.is_denied or check.mode is Mode.DECIDE:
            return answer
        if answer.reservation:
            self._reserve(organization, check, answer, counted, now_us)
        elif check.request_id:
            organization.reservations[check.request_id] = _Reservation(
                content_digest(check), answer, (), now_us, {}, {}, {}, {}, ended_us=now_us
            )
        return replace(answer, instant=self._instant(organization, now_us))

    async def check_many(
        self, checks: Sequence[Check], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer | RequestIdReused]:
        """As Counters."""
        answers: list[Answer | RequestIdReused] = []
        for check in checks:
            try:
                answers.append(await self.check(check, terms, period_confirmed=period_confirmed))
            except RequestIdReused as reused:
                answers.append(reused)
        return answers

    async def check_groups(
        self, groups: Sequence[CheckGroup]
    ) -> Sequence[Sequence[Answer | RequestIdReused] | Exception]:
        """As Counters."""
        outcomes: list[Sequence[Answer | RequestIdReused] | Exception] = []
        for group in groups:
            try:
                outcomes.append(
                    await self.check_many(group.checks, group.terms, period_confirmed=group.period_confirmed)
                )
            except Exception as error:  # noqa: BLE001 - it is the outcome of this group
                outcomes.append(error)
        return outcomes

    async def check_all(
        self, checks: Sequence[Check], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer]:
        """As Counters."""
        require_plain_consumptions(checks)
        organization, now_us = self._organizations[terms.organization_id], unix_microseconds(self._clock.now())
        asked = [(matching(terms.limits, check), check) for check in checks]
        every = [each for applied, _ in asked for each in applied]
        tracked = {tracks for each in every if (tracks := each.limit.tracks)}
        sequence = self._settled(organization, terms, tracked, now_us, period_confirmed=period_confirmed)
        windows = {WindowCounter(each.counter, each.limit.window) for each in every if each.limit.window}
        counted = organization.counted(windows, now_us)
        decisions, after = decide_all(asked, counted, standing=terms.entitlement.standing)
        organization.windows.update({each: admitted.slots for each, admitted in after.windows.items()})
        return [
            Answer(
                decision=decision,
                reservation=None,
                entitlement_version=terms.entitlement.version,
                period=terms.entitlement.period,
                applied_sequence=sequence,
                decided_us=now_us,
                instant=self._instant(organization, now_us),
            )
            for decision in decisions
        ]

    async def extend(self, target: Check, terms: Terms, *, period_confirmed: bool = False) -> Extended:
        """As Reservations."""
        organization = self._organizations[target.organization_id]
        now_us = unix_microseconds(self._clock.now())
        known = self._known(organization, target.request_id, now_us)
        tombstone = organization.tombstones.get(target.request_id)
        if (tombstone is not None and tombstone.is_final) or (known is not None and known.is_over):
            raise ReservationEnded(reservation_id=target.request_id)
        is_open = known is not None and known.ended_us is None
        if known is not None and is_open and known.scopes != target.subject.scopes:
            raise RequestIdReused(request_id=target.request_id)
        if not is_open and not target.consumptions:
            raise NotFound(what="reservation", name=target.request_id)
        wanted = growth(target, known.held) if known is not None and is_open else target
        decision, counted, answer = self._decided(
            organization, wanted, terms, now_us, growth_only=is_open, period_confirmed=period_confirmed
        )
        # What could let the same extension through depends on the whole of it: its own hold is not in its way.
        decision = conclude(decision.states, target.consumptions, terms.entitlement.standing)
        answer = replace(answer, decision=decision)
        if decision.is_denied:
            return Extended(answer, restored=False)
        if known is not None and is_open:
            self._grow(organization, known, wanted, counted, known.held)
            known.expire_us, known.expired_at_head = now_us + target.reserve_us, None
        else:
            # What it holds is still to come, whatever was drawn before; a commit goes by both.
            drawn = organization.tombstones.pop(target.request_id, None) or known
            self._reserve(organization, target, answer, counted, now_us)
            made = organization.reservations[target.request_id]
            made.digest, made.is_restored = "", True
            made.draw_before(drawn.drawn if drawn else NOTHING_DRAWN)
        return Extended(replace(answer, instant=self._instant(organization, now_us)), restored=not is_open)

    async def register(
        self, grants: Sequence[Grant], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer]:
        """As Reservations."""
        organization = self._organizations[terms.organization_id]
        now_us = unix_microseconds(self._clock.now())
        self._settled(organization, terms, (), now_us, period_confirmed=period_confirmed)
        made: list[Answer] = []
        for grant in grants:
            check = grant.check
            known = self._known(organization, check.request_id, now_us)
            if known is None or known.ended_by_time:
                if check.consumptions:
                    made.append(self._register(organization, grant, terms, now_us, period_confirmed=period_confirmed))
                    if known is not None:
                        anew = organization.reservations[check.request_id]
                        anew.is_restored = True
                        anew.draw_before(known.drawn)
                continue
            if known.is_over or known.ended_us is not None:
                continue
            if now_us + check.reserve_us > known.expire_us:
                known.expire_us, known.expired_at_head = now_us + check.reserve_us, None
            # What events drew of what it held all along is no room to hold it once more.
            wanted = growth(check, known.targets)
            if known.scopes == check.subject.scopes and any(each.holdable for each in wanted.consumptions):
                looked = replace(wanted, mode=Mode.DECIDE)
                _, counted, answer = self._decided(
                    organization, looked, terms, now_us, period_confirmed=period_confirmed
                )
                self._grow(organization, known, wanted, counted, known.targets)
                reservation = Reservation(check.request_id, known.expire_us)
                answer = replace(answer, decision=_as_granted(organization, wanted, answer), reservation=reservation)
                made.append(replace(answer, instant=self._instant(organization, now_us)))
        return made

    def _register(
        self, organization: _Organization, grant: Grant, terms: Terms, now_us: int, *, period_confirmed: bool
    ) -> Answer:
        check, reservation = grant.check, Reservation(grant.check.request_id, now_us + grant.check.reserve_us)
        looked = replace(check, mode=Mode.DECIDE)
        _, counted, answer = self._decided(organization, looked, terms, now_us, period_confirmed=period_confirmed)
        self._reserve(organization, check, replace(answer, reservation=reservation), counted, now_us)
        made = organization.reservations[check.request_id]
        made.answer = replace(answer, decision=_as_granted(organization, check, answer), reservation=reservation)
        made.digest = grant.digest
        return replace(made.answer, instant=self._instant(organization, now_us))

    async def commit(self, organization_id: str, reservation_id: str, actuals: Mapping[str, int]) -> Committed:
        """As Reservations."""
        organization = self._organizations[organization_id]
        now_us = unix_microseconds(self._clock.now())
        found = self._found(organization, reservation_id, now_us)
        kept = settle(actuals, held=found.held, drawn=found.drawn)
        for meter, quantity in kept.items():
            organization.hold(found.scopes, meter, quantity - found.held[meter])
            found.held[meter] = quantity
        holds = any(found.held.values())
        if found.ended_us is None and not holds:
            found.ended_us = now_us
        elif holds and not (found.is_settling or found.is_releasing):
            found.is_settling, found.expire_us, found.expired_at_head = True, now_us + SETTLE_US, None
        settlement = Settlement(
            held={meter: quantity for meter, quantity in sorted(found.held.items()) if quantity},
            overrun={} if found.is_restored else overrun(actuals, granted=found.granted),
            expire_us=found.expire_us if holds else None,
        )
        return Committed(settlement, self._instant(organization, now_us))

    async def release(self, organization_id: str, reservation_id: str) -> bool:
        """As Reservations."""
        organization = self._organizations[organization_id]
        now_us = unix_microseconds(self._clock.now())
        found = self._found(organization, reservation_id, now_us)
        if found.ended_us is None and not any(found.held.values()):
            found.ended_us = now_us
        if found.ended_us is not None:
            return True
        found.expire_us = min(found.expire_us, now_us)
        found.is_settling, found.is_releasing = False, True
        return False

    async def read(
        self,
        terms: Terms,
        counters: Sequence[Counter],
        windows: Sequence[WindowCounter] = (),
        *,
        period_confirmed: bool = False,
    ) -> Readings:
        """As Counters."""
        organization = self._organizations[terms.organization_id]
        now_us = unix_microseconds(self._clock.now())
        sequence = self._settled(organization, terms, terms.tracked, now_us, period_confirmed=period_confirmed)
        counted = organization.counted(windows, now_us)
        usage = {counter: counted.usage.get(counter, Usage()) for counter in counters}
        rates = {each: Rate(admitted.quantity, admitted.empty_us) for each, admitted in counted.windows.items()}
        return Readings(usage, rates, sequence, self._instant(organization, now_us))

    def trust(self, organization_id: str) -> None:
        """As Counters."""
        self._seen.forget(organization_id)

    async def rank(
        self,
        organization_id: str,
        period: Period,  # noqa: ARG002 - it keeps one
        rankings: Collection[Ranking],
        *,
        at_most: int,
    ) -> Mapping[Ranking, Sequence[str]]:
        """As Members."""
        organization = self._organizations[organization_id]
        held = Counts(organization.held)
        used = Counts(organization.used) + held
        return {
            ranking: most(ranking.of, held if ranking.held_alone else used, at_most=at_most) for ranking in rankings
        }

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
        tracked: frozenset[LevelMeter] = frozenset(),
        force: bool = False,
    ) -> bool:
        """As CounterUpkeep."""
        organization = self._organizations[entitlement.organization_id]
        if organization.state != expected or organization.entitlement != entitlement:
            return False
        kept = None if organization.holds_are_lost else organization.state
        epoch = kept.epoch if kept else secrets.token_hex(8)
        organization.holds_are_lost = False
        state = CounterState(epoch, position, entitlement.period, tracked)
        if state == organization.state and not force:
            return False
        organization.state = state
        organization.used = {counter: min(quantity, COUNTER_MAX) for counter, quantity in used.items()}
        return True

    async def apply(
        self, organization_id: str, page: Tally, *, expected: CounterState, position: Position
    ) -> Overrun | None:
        """As CounterUpkeep."""
        organization = self._organizations[organization_id]
        if organization.state != expected:
            return None
        if organization.holds_are_lost:
            raise CountersMissing
        for counter, quantity in page.used.items():
            sum_used = organization.used.get(counter, 0) + quantity
            organization.used[counter] = max(0, min(sum_used, COUNTER_MAX))
        beyond_count = after_count = 0
        for reservation_id, drawn in page.draws.items():
            reservation = organization.reservations.get(reservation_id)
            if reservation is None:
                organization.remember(reservation_id, drawn)
            if reservation is None or reservation.ended_us is not None:
                after_count += bool(drawn.quantities)
                if reservation is not None and reservation.ended_by_time:
                    # It may be made anew by who still uses it.
                    reservation.draw(drawn)
            else:
                beyond_count += self._draw(organization, reservation, drawn)
        organization.state = replace(expected, position=position)
        return Overrun(beyond_count, after_count)

    async def recount(self, organization_id: str, *, repair_held: bool = False) -> Recount | None:
        """As CounterAudit."""
        organization = self._organizations[organization_id]
        if organization.state is None:
            return None
        if organization.holds_are_lost:
            raise CountersMissing
        sums: dict[Counter, int] = defaultdict(int)
        for reservation in organization.reservations.values():
            for meter, remaining in reservation.held.items():
                for scope in reservation.scopes:
                    sums[Counter(scope, meter)] += remaining
        held = Holds(_above_zero(organization.held), _above_zero(sums))
        if repair_held:
            organization.held = sums
        return Recount(organization.state, _above_zero(organization.used), used_is_sample=False, held=held)

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
        freed_count = unmatched_count = waiting_count = 0
        for name in reservation_ids:
            reservation = organization.reservations.get(name)
            if reservation is None or reservation.ended_us is not None or reservation.expire_us > now_us:
                continue
            if reservation.expired_at_head is None:
                reservation.expired_at_head = head_sequence
            if applied >= min(reservation.expired_at_head, head_sequence):
                unmatched_count += reservation.is_settling and any(reservation.held.values())
                reservation.ended_by_time = not (reservation.is_settling or reservation.is_releasing)
                organization.end(reservation, now_us)
                freed_count += 1
            else:
                waiting_count += 1
        return Freed(freed_count, unmatched_count, waiting_count, self._instant(organization, now_us))

    async def entitlement(self, organization_id: str) -> Entitlement | None:
        """As EntitlementShelf."""
        return self._organizations[organization_id].entitlement

    async def kept(self, organization_id: str) -> Kept:
        """As TermsShelf."""
        organization = self._organizations[organization_id]
        return Kept(organization.entitlement, organization.own)

    async def limits_position(self, organization_id: str) -> Position | None:
        """As LimitShelf."""
        own = self._organizations[organization_id].own
        return None if own is None else Position(own.sequence, own.commit_id)

    async def put_limits(self, own: OwnLimits) -> OwnLimits:
        """As LimitShelf."""
        organization = self._organizations[own.organization_id]
        if organization.own is None or own.sequence > organization.own.sequence:
            organization.own = own
        return organization.own

    async def replace_limits(self, own: OwnLimits, *, expected: Position) -> bool:
        """As LimitShelf."""
        if await self.limits_position(own.organization_id) != expected:
            return False
        self._organizations[own.organization_id].own = own
        return True

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
        first = self._known(organization, check.request_id, now_us)
        if check.mode is Mode.DECIDE or not check.request_id or first is None:
            return None
        if first.digest not in ("", content_digest(check)):
            raise RequestIdReused(request_id=check.request_id)
        reservation = first.answer.reservation and Reservation(check.request_id, first.expire_us)
        return replace(first.answer, reservation=reservation, instant=self._instant(organization, now_us))

    def _known(self, organization: _Organization, name: str, now_us: int) -> _Reservation | None:
        known = organization.reservations.get(name)
        if known is None or known.ended_us is None:
            return known
        remembered_us = REMEMBERED_AFTER_END_US if known.answer.reservation else REMEMBERED_CONSUMPTION_US
        return None if now_us > known.ended_us + remembered_us else known

    def _found(self, organization: _Organization, name: str, now_us: int) -> _Reservation:
        known = self._known(organization, name, now_us)
        if known is None or not known.scopes:
            raise NotFound(what="reservation", name=name)
        return known

    def _decided(
        self,
        organization: _Organization,
        check: Check,
        terms: Terms,
        now_us: int,
        *,
        period_confirmed: bool,
        growth_only: bool = False,
        drawn: Mapping[str, int] = NOTHING_DRAWN,
    ) -> tuple[Decision, Counted, Answer]:
        applied, entitlement = matching(terms.limits, check), terms.entitlement
        tracked = {tracks for each in applied if (tracks := each.limit.tracks)}
        sequence = self._settled(organization, terms, tracked, now_us, period_confirmed=period_confirmed)
        windows = {WindowCounter(each.counter, each.limit.window) for each in applied if each.limit.window}
        counted = organization.counted(windows, now_us)
        decision, after = decide(
            applied, counted, check, standing=entitlement.standing, growth_only=growth_only, drawn=drawn
        )
        reserves = check.mode is Mode.RESERVE and not decision.is_denied
        answer = Answer(
            decision=decision,
            reservation=Reservation(check.request_id, now_us + check.reserve_us) if reserves else None,
            entitlement_version=entitlement.version,
            period=entitlement.period,
            applied_sequence=sequence,
            decided_us=now_us,
            instant=self._instant(organization, now_us),
        )
        organization.windows.update({each: admitted.slots for each, admitted in after.windows.items()})
        return decision, counted, answer

    def _grow(
        self,
        organization: _Organization,
        known: _Reservation,
        wanted: Check,
        before: Counted,
        bases: Mapping[str, int],
    ) -> None:
        for each in wanted.consumptions:
            if each.quantity is not None:
                known.targets[each.meter] = min(bases.get(each.meter, 0) + each.quantity, COUNTER_MAX)
            if each.holdable:
                counters = [Counter(scope, each.meter) for scope in known.scopes]
                added = holdable(before.usage, counters, each.holdable)
                organization.hold(known.scopes, each.meter, added)
                known.held[each.meter] = known.held.get(each.meter, 0) + added
                known.granted[each.meter] = min(known.granted.get(each.meter, 0) + each.holdable, COUNTER_MAX)

    def _reserve(self, organization: _Organization, check: Check, answer: Answer, before: Counted, now_us: int) -> None:
        scopes, drawn = check.subject.scopes, organization.tombstones.pop(check.request_id, _Tombstone())
        granted = {each.meter: each.holdable for each in check.consumptions if each.holdable}
        held: dict[str, int] = {}
        for meter, quantity in granted.items():
            wanted = 0 if drawn.is_final else max(0, quantity - drawn.drawn[meter])
            held[meter] = holdable(before.usage, [Counter(scope, meter) for scope in scopes], wanted)
            organization.hold(scopes, meter, held[meter])
        reservation = _Reservation(
            content_digest(check),
            answer,
            scopes,
            now_us + check.reserve_us,
            held,
            granted,
            dict(granted),
            {meter: drawn.drawn[meter] for meter in granted},
            ended_us=now_us if drawn.is_final else None,
        )
        organization.reservations[check.request_id] = reservation

    def _settled(
        self,
        organization: _Organization,
        terms: Terms,
        tracked: Collection[LevelMeter],
        now_us: int,
        *,
        period_confirmed: bool,
    ) -> int:
        period = terms.entitlement.period
        period_is_over = now_us >= period.end_us and not period_confirmed
        if Kept(terms.entitlement, terms.own) != Kept(organization.entitlement, organization.own) or period_is_over:
            raise TermsOutdated
        if organization.state is None or organization.holds_are_lost or organization.state.period != period:
            raise CountersMissing
        if not organization.state.tracked.issuperset(tracked):
            raise CountersMissing
        if organization.state.position.sequence < self._seen.of(terms.organization_id):
            raise CountersBehind
        self._seen.note(terms.organization_id, organization.state.position.sequence)
        return organization.state.position.sequence

    def _draw(self, organization: _Organization, reservation: _Reservation, draw: Draw) -> bool:
        is_beyond = False
        reservation.draw(draw)
        for meter, quantity in draw.quantities.items():
            if meter in reservation.granted:
                drawn = min(quantity, reservation.held[meter])
                reservation.held[meter] -= drawn
                organization.hold(reservation.scopes, meter, -drawn)
                is_beyond = is_beyond or quantity > drawn
        if draw.is_final or (reservation.is_settling and not any(reservation.held.values())):
            organization.end(reservation, unix_microseconds(self._clock.now()))
        return is_beyond

    def _instant(self, organization: _Organization, now_us: int) -> Instant:
        by_expiry = organization.open_by_expiry()
        return Instant(now_us, by_expiry[0][0] if by_expiry else None)


def _as_granted(organization: _Organization, check: Check, answer: Answer) -> Decision:
    """It was allowed already, and its retries are answered so."""
    states = [
        replace(
            state,
            held=state.held if state.limit.window else organization.held[state.counter],
            outcome=Outcome.ALLOWED,
            room_us=None,
        )
        for state in answer.decision.states
    ]
    return conclude(sorted(states, key=lambda each: each.limit.order), check.consumptions, Standing.ACTIVE)


def _above_zero(quantities: Mapping[Counter, int]) -> dict[Counter, int]:
    return {counter: quantity for counter, quantity in quantities.items() if quantity}


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

    async def snapshot(
        self,
        organization_id: str,
        period: Period,
        tracked: Collection[LevelMeter] = (),
        *,
        as_of_sequence: int | None = None,
    ) -> Snapshot:
        """As Ledger."""
        ledger = self._entries[organization_id]
        if as_of_sequence is not None and as_of_sequence < self._horizons[organization_id]:
            raise OutOfRetention(problem="what stood there is gone")
        reached = len(ledger) if as_of_sequence is None else min(as_of_sequence, len(ledger))
        totals = tally((entry for entry, _ in ledger[:reached]), period, tracked).used
        return Snapshot(totals, self._position(organization_id, reached))

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
    """A fixed catalog of meters, which take their values from measurements, but for some."""

    def __init__(self, *names: str, otherwise: Collection[str] = ()) -> None:
        self._names = frozenset(names) | frozenset(otherwise)
        self._otherwise = frozenset(otherwise)

    async def measured(self, names: Collection[str]) -> Collection[str]:
        """As MeterCatalog."""
        return [name for name in names if name in self._names - self._otherwise]

    def are_known(self, names: Collection[str]) -> bool:
        """As MeterCatalog."""
        return self._names.issuperset(names)

    async def unknown(self, names: Collection[str]) -> Collection[str]:
        """As MeterCatalog."""
        return [name for name in names if name not in self._names]
