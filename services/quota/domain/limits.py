"""What is counted, and what may be used of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from heapq import nsmallest

from kit.enums import IdentityEnum
from services.quota.domain.maxima import COUNTER_MAX

SLIDING_SLOTS = 60
"""The steps in which a sliding window moves."""


class ScopeKind(IdentityEnum):
    """A level of an organization, the widest first."""

    ORGANIZATION = "organization"
    PROJECT = "project"
    TEAM = "team"
    USER = "user"
    AGENT = "agent"
    TASK = "task"


PARTS = {kind: f"{kind.value}_id" for kind in ScopeKind if kind is not ScopeKind.ORGANIZATION}
"""What the id of each level below the organization is called in a subject, the widest first."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of one organization. `id` is empty for the organization itself."""

    kind: ScopeKind
    id: str = ""


ORGANIZATION = Scope(ScopeKind.ORGANIZATION)


@dataclass(frozen=True, slots=True)
class LimitScope:
    """What a limit covers. `id` None: each one of that level separately; always None for the organization."""

    kind: ScopeKind
    id: str | None = None

    def covered(self, scopes: Mapping[ScopeKind, Scope]) -> Scope | None:
        """Which of a subject's scopes, by level, the limit covers; None when it covers none of them."""
        scope = scopes.get(self.kind)
        return scope if scope is not None and self.id in (None, scope.id) else None


WHOLE_ORGANIZATION = LimitScope(ScopeKind.ORGANIZATION)
PLAN_PREFIX = "plan:"
"""Of the ids of a plan's limits."""


@dataclass(frozen=True, slots=True)
class Counter:
    """What is counted, in the meter's base unit. It belongs to no limit: limits only compare."""

    scope: Scope
    meter: str


@dataclass(frozen=True, slots=True)
class LevelMeter:
    """A level below the organization and a meter, whose counters of each member are kept because a limit looks at
    them.
    """

    level: ScopeKind
    meter: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a counter says: used by the ledger in the period, and held by open reservations."""

    used: int = 0
    held: int = 0


class LimitKind(IdentityEnum):
    """What a limit compares. The order of the members is the order in which limits are reported."""

    PERIOD = "PERIOD"
    """Used and held within the billing period."""
    WINDOW = "WINDOW"
    """Admitted within a window."""
    CONCURRENCY = "CONCURRENCY"
    """Held at once; what the ledger says does not matter."""


class WindowStyle(IdentityEnum):
    """How a window moves."""

    FIXED = "FIXED"
    """Anew at multiples of its length since 1970."""
    SLIDING = "SLIDING"
    """The last window's length before now."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time within which something is counted, as numbered slots: slot n begins at n times its length."""

    length_us: int
    style: WindowStyle

    @property
    def slot_us(self) -> int:
        """The length of a slot: the whole window, or the step in which it slides, rounded up so that 60 fill it."""
        return self.length_us if self.style is WindowStyle.FIXED else -(-self.length_us // SLIDING_SLOTS)

    @property
    def slots_counted(self) -> int:
        """How many slots count, the current one included. A sliding window touches one more than it contains, and
        counts that whole: so no stretch of its length ever holds more than was counted.
        """
        return 1 if self.style is WindowStyle.FIXED else SLIDING_SLOTS + 1


class UnavailablePolicy(Enum):
    """How a limit behaves while its counters cannot be reached."""

    ALLOW = "ALLOW"
    """Within a small allowance of each process' own, counted afterwards."""
    DENY = "DENY"


_KIND_ORDER = {kind: place for place, kind in enumerate(LimitKind)}
_LEVEL_ORDER = {kind: place for place, kind in enumerate(ScopeKind)}


@dataclass(frozen=True, slots=True)
class Limit:
    """How much there may be of a meter. `value` None: unlimited, still counted."""

    limit_id: str
    scope: LimitScope
    meter: str
    kind: LimitKind
    value: int | None
    grace_percent: int
    window: Window | None = None
    """Of a window limit."""
    on_unavailable: UnavailablePolicy = UnavailablePolicy.ALLOW
    shadow: bool = False
    """Counts and reports but never denies."""

    @property
    def hard(self) -> int | None:
        """The value plus its grace band, rounded down; None: unlimited."""
        if self.value is None:
            return None
        return min(self.value + self.value * self.grace_percent // 100, COUNTER_MAX)

    @property
    def order(self) -> tuple[int, str, int, str]:
        """Where it stands in a list of limits: a period limit first, because waiting does not help against it."""
        return (_KIND_ORDER[self.kind], self.meter, _LEVEL_ORDER[self.scope.kind], self.limit_id)

    @property
    def sole_counter(self) -> Counter | None:
        """The one counter that it compares; None when it covers each member of a level separately."""
        if self.scope.kind is ScopeKind.ORGANIZATION:
            return Counter(ORGANIZATION, self.meter)
        return None if self.scope.id is None else Counter(Scope(self.scope.kind, self.scope.id), self.meter)

    @property
    def tracks(self) -> LevelMeter | None:
        """What must be counted of the ledger for it besides the organization's totals; None: nothing."""
        if self.kind is not LimitKind.PERIOD or self.scope.kind is ScopeKind.ORGANIZATION:
            return None
        return LevelMeter(self.scope.kind, self.meter)


def plan_limit(meter: str, kind: LimitKind, value: int | None, grace_percent: int) -> Limit:
    """The limit that a plan sets for a whole organization."""
    return Limit(f"{PLAN_PREFIX}{meter}", WHOLE_ORGANIZATION, meter, kind, value, grace_percent)


def most(of: LevelMeter, quantities: Mapping[Counter, int], *, at_most: int) -> list[str]:
    """The ids of the members of a level with most of a meter, most first and equals by id; none without any."""
    members = [
        (-quantity, counter.scope.id)
        for counter, quantity in quantities.items()
        if quantity > 0 and counter.scope.kind is of.level and counter.meter == of.meter
    ]
    return [id_ for _, id_ in nsmallest(at_most, members)]
