"""What a page of the ledger does to the counters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from services.quota.domain.entitlements import Period
from services.quota.domain.limits import ORGANIZATION, Counter, LevelMeter, Scope


@dataclass(frozen=True, slots=True)
class UsageEntry:
    """What quota needs to know of a recorded event."""

    sequence: int
    event_time_us: int
    quantities: tuple[tuple[str, int], ...]
    """Meter and quantity in base units; negative in a reversal, which names no reservation."""
    reservation_id: str = ""
    reservation_final: bool = False
    scopes: tuple[Scope, ...] = (ORGANIZATION,)
    """Whose usage it is, the widest first."""


@dataclass(slots=True)
class Draw:
    """What events take from one reservation: by meter, from all of its scopes."""

    quantities: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class Tally:
    """The effect of entries, summed up."""

    used: Mapping[Counter, int]
    """What the entries inside the period used; negative where they took back more."""
    draws: Mapping[str, Draw]
    """What all entries take from reservations, by reservation: a hold is of no period."""


def tally(entries: Iterable[UsageEntry], period: Period, tracked: Collection[LevelMeter] = ()) -> Tally:
    """Sums entries up, of levels below the organization what is tracked. Drawing a reservation down by a sum is the
    same as by its parts, in any order.
    """
    used: dict[Counter, int] = defaultdict(int)
    draws: dict[str, Draw] = defaultdict(Draw)
    for entry in entries:
        for meter, quantity in entry.quantities:
            if period.contains(entry.event_time_us):
                for scope in entry.scopes:
                    if scope == ORGANIZATION or LevelMeter(scope.kind, meter) in tracked:
                        used[Counter(scope, meter)] += quantity
            if entry.reservation_id:
                draws[entry.reservation_id].quantities[meter] += quantity
        if entry.reservation_final:
            draws[entry.reservation_id].is_final = True
    return Tally(used, draws)
