"""Whether counters are what they should be: what the ledger says was used, and what open reservations hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from services.quota.domain.limits import Counter, LevelMeter
from services.quota.domain.maxima import COUNTER_MAX


class Part(Enum):
    """Which part of a counter."""

    USED = "used"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Drift:
    """A counter that is not what it should be."""

    part: Part
    counter: Counter
    kept: int
    expected: int


def drift_of_used(
    kept: Mapping[Counter, int],
    expected: Mapping[Counter, int],
    *,
    unknown: Collection[LevelMeter],
    only_kept: bool,
) -> tuple[Drift, ...]:
    """Where counters differ from the ledger. unknown: levels of which the ledger did not say everything. only_kept:
    those kept are a sample, so that nothing follows from one that is not there.
    """
    counters = [
        counter
        for counter in (kept if only_kept else kept.keys() | expected.keys())
        if LevelMeter(counter.scope.kind, counter.meter) not in unknown
    ]
    return _drifts(Part.USED, kept, expected, counters)


def drift_of_held(kept: Mapping[Counter, int], expected: Mapping[Counter, int]) -> tuple[Drift, ...]:
    """Where holds differ from what the open reservations hold together."""
    return _drifts(Part.HELD, kept, expected, kept.keys() | expected.keys())


def _drifts(
    part: Part, kept: Mapping[Counter, int], expected: Mapping[Counter, int], counters: Collection[Counter]
) -> tuple[Drift, ...]:
    return tuple(
        Drift(part, counter, kept.get(counter, 0), due)
        for counter in sorted(counters, key=_order)
        if kept.get(counter, 0) != (due := min(expected.get(counter, 0), COUNTER_MAX))
    )


def _order(counter: Counter) -> tuple[str, str, str]:
    return (counter.scope.kind.value, counter.scope.id, counter.meter)
