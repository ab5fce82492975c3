"""Quota as one would do it on paper: every event kept, every number added up anew, nothing shared with the service."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from services.quota.domain.checks import Check
from services.quota.domain.limits import ORGANIZATION, Limit, LimitKind, Scope
from services.quota.domain.usage import UsageEntry

Quantities = Mapping[str, int | None]
Scopes = tuple[Scope, ...]


@dataclass
class Held:
    """A reservation."""

    content: Check | None
    """What a repeated check must equal; None: any."""
    scopes: Scopes
    held: dict[str, int]
    granted: dict[str, int]
    targets: dict[str, int]
    """What it held when it was last granted something."""
    drawn: dict[str, int]
    is_due: bool
    end: str = ""
    """How it ended; empty: it is open."""
    closing: str = ""
    """`settling` or `releasing`."""
    head_seen: int | None = None
    is_restored: bool = False

    def grow(self, amounts: Quantities, bases: Mapping[str, int]) -> None:
        """Holds so much more than the bases."""
        for meter, amount in amounts.items():
            if amount is not None:
                self.targets[meter] = bases.get(meter, 0) + amount
            if amount:
                self.held[meter] = self.held.get(meter, 0) + amount
                self.granted[meter] = self.granted.get(meter, 0) + amount

    def draw_before(self, drawn: Mapping[str, int]) -> None:
        """Notes what events took before it was made."""
        self.drawn = {meter: drawn.get(meter, 0) for meter in self.granted}

    def finish(self, end: str) -> None:
        """It holds nothing any more."""
        self.held = dict.fromkeys(self.held, 0)
        self.end = end


@dataclass
class Plain:
    """One organization."""

    entries: list[UsageEntry] = field(default_factory=list)
    applied: int = 0
    starts: tuple[int, int] = (0, 0)
    """The period: start and end."""
    limits: dict[str, Limit] = field(default_factory=dict)
    is_active: bool = True
    reservations: dict[str, Held] = field(default_factory=dict)
    tombstones: dict[str, tuple[dict[str, int], bool]] = field(default_factory=dict)
    windows: dict[tuple[Scope, str, int, int], dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    consumed: dict[str, Check] = field(default_factory=dict)

    def lose(self) -> None:
        """What the store alone knew is gone; what it counts next, it takes from the whole ledger."""
        self.reservations.clear()
        self.tombstones.clear()
        self.windows.clear()
        self.consumed.clear()
        self.applied = len(self.entries)

    def lose_holds(self) -> None:
        """Reservations are gone, and what windows count stays."""
        self.reservations.clear()
        self.tombstones.clear()

    def used(self, scope: Scope, meter: str) -> int:
        """By the events applied, in the period."""
        start, end = self.starts
        return sum(
            quantity
            for entry in self.entries[: self.applied]
            if scope in entry.scopes and start <= entry.event_time_us < end
            for name, quantity in entry.quantities
            if name == meter
        )

    def held(self, scope: Scope, meter: str) -> int:
        """By open reservations."""
        return sum(each.held.get(meter, 0) for each in self.reservations.values() if scope in each.scopes)

    def in_window(self, scope: Scope, limit: Limit, now_us: int) -> int:
        """Admitted within the limit's window."""
        slots, current, counted = self._slots(scope, limit, now_us)
        return sum(quantity for slot, quantity in slots.items() if slot > current - counted)

    def allows(self, scopes: Scopes, quantities: Quantities, now_us: int, *, growth_only: bool = False) -> bool:
        """Whether every limit that applies does."""
        if not self.is_active:
            return False
        for limit, scope in self._applying(scopes, quantities):
            quantity = quantities[limit.meter]
            if limit.shadow or limit.value is None or (growth_only and quantity == 0):
                continue
            counted = {
                LimitKind.PERIOD: lambda: self.used(scope, limit.meter) + self.held(scope, limit.meter),  # noqa: B023
                LimitKind.CONCURRENCY: lambda: self.held(scope, limit.meter),  # noqa: B023
                LimitKind.WINDOW: lambda: self.in_window(scope, limit, now_us),  # noqa: B023
            }[limit.kind]()
            hard = limit.value + limit.value * limit.grace_percent // 100
            if counted + (1 if quantity is None else quantity) > hard:
                return False
        return True

    def admit(self, scopes: Scopes, quantities: Quantities, now_us: int) -> None:
        """Counts within every window that a limit looks at, each once."""
        seen = set()
        for limit, scope in self._applying(scopes, quantities):
            if limit.window is not None and (scope, limit.meter, limit.window) not in seen:
                seen.add((scope, limit.meter, limit.window))
                slots, current, _ = self._slots(scope, limit, now_us)
                slots[current] = slots.get(current, 0) + (quantities[limit.meter] or 0)

    def reserve(
        self, name: str, content: Check | None, scopes: Scopes, quantities: Quantities, *, is_due: bool
    ) -> Held:
        """Holds what was allowed, less what was drawn before."""
        drawn, is_final = self.tombstones.pop(name, ({}, False))
        granted = {meter: quantity for meter, quantity in quantities.items() if quantity}
        held = {meter: 0 if is_final else max(0, amount - drawn.get(meter, 0)) for meter, amount in granted.items()}
        made = Held(content, scopes, held, granted, dict(granted), {}, is_due)
        made.draw_before(drawn)
        made.end = "final" if is_final else ""
        self.reservations[name] = made
        return made

    def make_anew(
        self, name: str, content: Check | None, scopes: Scopes, quantities: Quantities, *, is_due: bool
    ) -> Held:
        """Holds all of what is still to come, whatever was drawn before."""
        known, (drawn, _) = self.reservations.get(name), self.tombstones.pop(name, ({}, False))
        made = self.reserve(name, content, scopes, quantities, is_due=is_due)
        made.draw_before(known.drawn if known else drawn)
        made.is_restored = True
        return made

    def register(self, name: str, content: Check, scopes: Scopes, quantities: Quantities, *, is_due: bool) -> bool:
        """Holds what was granted and is not held yet. Whether anything was."""
        known = self.reservations.get(name)
        if name in self.consumed:
            return False
        if known is None:
            self.reserve(name, content, scopes, quantities, is_due=is_due)
            return True
        if known.end == "time":
            self.make_anew(name, content, scopes, quantities, is_due=is_due)
            return True
        if known.end or known.closing:
            return False
        if known.is_due:
            known.is_due, known.head_seen = is_due, None
        if known.scopes != scopes:
            return False
        wanted = {meter: (amount or 0) - known.targets.get(meter, 0) for meter, amount in quantities.items()}
        missing = {meter: amount for meter, amount in wanted.items() if amount > 0}
        known.grow(missing, known.targets)
        return bool(missing)

    def apply_all(self) -> None:
        """Follows the ledger to its head."""
        for entry in self.entries[self.applied :]:
            self.applied += 1
            name, known = entry.reservation_id, self.reservations.get(entry.reservation_id)
            if not name or name in self.consumed:
                continue
            if known is None:
                drawn, is_final = self.tombstones.get(name, ({}, False))
                for meter, quantity in entry.quantities:
                    drawn[meter] = drawn.get(meter, 0) + quantity
                self.tombstones[name] = (drawn, is_final or entry.reservation_final)
            elif not known.end:
                self._draw(known, entry)
            elif known.end == "time":
                for meter, quantity in entry.quantities:
                    known.drawn[meter] = known.drawn.get(meter, 0) + quantity

    def free_due(self) -> int:
        """Ends what is due and waits for nothing. How many ended."""
        freed = 0
        for each in self.reservations.values():
            if each.end or not each.is_due:
                continue
            each.head_seen = len(self.entries) if each.head_seen is None else each.head_seen
            if self.applied >= min(each.head_seen, len(self.entries)):
                each.finish({"": "time", "settling": "settled", "releasing": "released"}[each.closing])
                freed += 1
        return freed

    def _draw(self, known: Held, entry: UsageEntry) -> None:
        for meter, quantity in entry.quantities:
            known.drawn[meter] = known.drawn.get(meter, 0) + quantity
            if meter in known.held:
                known.held[meter] -= min(known.held[meter], quantity)
        if entry.reservation_final:
            known.finish("final")
        elif known.closing == "settling" and not any(known.held.values()):
            known.finish("settled")

    def _applying(self, scopes: Scopes, quantities: Quantities) -> Iterable[tuple[Limit, Scope]]:
        for limit in self.limits.values():
            for scope in scopes:
                is_covered = scope.kind is limit.scope.kind and limit.scope.id in (None, scope.id)
                if limit.meter in quantities and (scope == ORGANIZATION or scope.id) and is_covered:
                    yield limit, scope

    def _slots(self, scope: Scope, limit: Limit, now_us: int) -> tuple[dict[int, int], int, int]:
        if limit.window is None:
            raise AssertionError(limit)
        slot_us, counted = limit.window.slot_us, limit.window.slots_counted
        slots = self.windows[scope, limit.meter, slot_us, counted]
        return slots, max(now_us // slot_us, max(slots, default=0)), counted
