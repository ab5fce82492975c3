"""What is counted, and what may be used of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from services.quota.domain.maxima import COUNTER_MAX


class ScopeKind(Enum):
    """A level of an organization."""

    ORGANIZATION = "organization"


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of one organization. `id` is empty for the organization itself."""

    kind: ScopeKind
    id: str = ""


ORGANIZATION = Scope(ScopeKind.ORGANIZATION)


@dataclass(frozen=True, slots=True)
class Counter:
    """What is counted, in the meter's base unit. It belongs to no limit: limits only compare."""

    scope: Scope
    meter: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a counter says: used by the ledger in the period, and held by open reservations."""

    used: int = 0
    held: int = 0


class LimitKind(Enum):
    """What a limit compares. The order of the members is the order in which limits are reported."""

    PERIOD = "PERIOD"
    """Used and held within the billing period."""
    CONCURRENCY = "CONCURRENCY"
    """Held at once; what the ledger says does not matter."""


_KIND_ORDER = {kind: place for place, kind in enumerate(LimitKind)}


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of a counter there may be. `value` None: unlimited, still counted."""

    limit_id: str
    counter: Counter
    kind: LimitKind
    value: int | None
    grace_percent: int

    @property
    def hard(self) -> int | None:
        """The value plus its grace band, rounded down; None: unlimited."""
        if self.value is None:
            return None
        return min(self.value + self.value * self.grace_percent // 100, COUNTER_MAX)

    @property
    def order(self) -> tuple[int, str, str]:
        """Where it stands in a list of limits: a period limit first, because waiting does not help against it."""
        return (_KIND_ORDER[self.kind], self.counter.meter, self.limit_id)


def plan_limit(meter: str, kind: LimitKind, value: int | None, grace_percent: int) -> Limit:
    """The limit that a plan sets for a whole organization."""
    return Limit(f"plan:{meter}", Counter(ORGANIZATION, meter), kind, value, grace_percent)
