"""Everything that is kept of one organization, and what moves it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from kit.feed import START, Position
from services.quota.application.ports import (
    Answer,
    CounterState,
    Instant,
)
from services.quota.domain.checks import Check, content_digest
from services.quota.domain.decisions import (
    Counted,
    holdable,
)
from services.quota.domain.entitlements import Entitlement
from services.quota.domain.limits import Counter, Scope, Usage
from services.quota.domain.maxima import (
    COUNTER_MAX,
    REMEMBERED_AFTER_END_US,
    REMEMBERED_CONSUMPTION_US,
    TOMBSTONES_MAX,
)
from services.quota.domain.terms import OwnLimits
from services.quota.domain.usage import Draw
from services.quota.domain.windows import Slots, WindowCounter, admitted_at


@dataclass(slots=True)
class Held:
    """A reservation; without scopes, a consumption that was made with an id."""

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
class Tombstone:
    """What events drew of a reservation that is not known."""

    drawn: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    is_final: bool = False


@dataclass(slots=True)
class Organization:
    """Everything that is kept of one."""

    entitlement: Entitlement | None = None
    own: OwnLimits | None = None
    read_up_to: Position = START
    state: CounterState | None = None
    holds_are_lost: bool = False
    used: dict[Counter, int] = field(default_factory=dict)
    held: dict[Counter, int] = field(default_factory=lambda: defaultdict(int))
    windows: dict[WindowCounter, Slots] = field(default_factory=dict)
    reservations: dict[str, Held] = field(default_factory=dict)
    tombstones: dict[str, Tombstone] = field(default_factory=lambda: defaultdict(Tombstone))

    def open_by_expiry(self) -> list[tuple[int, str]]:
        """Open reservations, the next to end first."""
        return sorted((each.expire_us, name) for name, each in self.reservations.items() if each.ended_us is None)

    def hold(self, scopes: Sequence[Scope], meter: str, quantity: int) -> None:
        """Holds so much more under each of the scopes."""
        for scope in scopes:
            self.held[Counter(scope, meter)] += quantity

    def end(self, reservation: Held, now_us: int) -> None:
        """Frees what it holds."""
        for meter, remaining in reservation.held.items():
            self.hold(reservation.scopes, meter, -remaining)
            reservation.held[meter] = 0
        reservation.ended_us = now_us

    def remember(self, reservation_id: str, drawn: Draw) -> None:
        """Notes what events drew of a reservation that is not known."""
        if reservation_id in self.tombstones or len(self.tombstones) < TOMBSTONES_MAX:
            tombstone = self.tombstones[reservation_id]
            tombstone.is_final = tombstone.is_final or drawn.is_final
            for meter, quantity in drawn.quantities.items():
                tombstone.drawn[meter] += quantity

    def drawn_before(self, check: Check) -> Mapping[str, int]:
        """What events drew of what the check is about to hold."""
        tombstone = self.tombstones.get(check.request_id, Tombstone())
        return {each.meter: each.holdable for each in check.consumptions} if tombstone.is_final else tombstone.drawn

    def counted(self, windows: Collection[WindowCounter], now_us: int) -> Counted:
        """What all counters and these windows say."""
        counters = self.used.keys() | self.held.keys()
        usage = {each: Usage(self.used.get(each, 0), self.held[each]) for each in counters}
        return Counted(usage, {each: admitted_at(each.window, self.windows.get(each, {}), now_us) for each in windows})

    def known(self, name: str, now_us: int) -> Held | None:
        """The reservation or consumption, unless it ended so long ago that it is forgotten."""
        known = self.reservations.get(name)
        if known is None or known.ended_us is None:
            return known
        remembered_us = REMEMBERED_AFTER_END_US if known.answer.reservation else REMEMBERED_CONSUMPTION_US
        return None if now_us > known.ended_us + remembered_us else known

    def instant(self, now_us: int) -> Instant:
        """The moment, and the next end of a reservation."""
        by_expiry = self.open_by_expiry()
        return Instant(now_us, by_expiry[0][0] if by_expiry else None)

    def reserve(self, check: Check, answer: Answer, before: Counted, now_us: int) -> Held:
        """Holds what a check asks for, less what was drawn before."""
        scopes, drawn = check.subject.scopes, self.tombstones.pop(check.request_id, Tombstone())
        granted = {each.meter: each.holdable for each in check.consumptions if each.holdable}
        held: dict[str, int] = {}
        for meter, quantity in granted.items():
            wanted = 0 if drawn.is_final else max(0, quantity - drawn.drawn[meter])
            held[meter] = holdable(before.usage, [Counter(scope, meter) for scope in scopes], wanted)
            self.hold(scopes, meter, held[meter])
        reservation = Held(
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
        self.reservations[check.request_id] = reservation
        return reservation

    def grow(self, known: Held, wanted: Check, before: Counted, bases: Mapping[str, int]) -> None:
        """Holds what is wanted beyond the bases."""
        for each in wanted.consumptions:
            if each.quantity is not None:
                known.targets[each.meter] = min(bases.get(each.meter, 0) + each.quantity, COUNTER_MAX)
            if each.holdable:
                counters = [Counter(scope, each.meter) for scope in known.scopes]
                added = holdable(before.usage, counters, each.holdable)
                self.hold(known.scopes, each.meter, added)
                known.held[each.meter] = known.held.get(each.meter, 0) + added
                known.granted[each.meter] = min(known.granted.get(each.meter, 0) + each.holdable, COUNTER_MAX)

    def draw(self, reservation: Held, draw: Draw, now_us: int) -> bool:
        """Takes what events drew from what it holds. Whether they went beyond it."""
        is_beyond = False
        reservation.draw(draw)
        for meter, quantity in draw.quantities.items():
            if meter in reservation.granted:
                drawn = min(quantity, reservation.held[meter])
                reservation.held[meter] -= drawn
                self.hold(reservation.scopes, meter, -drawn)
                is_beyond = is_beyond or quantity > drawn
        if draw.is_final or (reservation.is_settling and not any(reservation.held.values())):
            self.end(reservation, now_us)
        return is_beyond
