"""The decision: pure, and the twin of adapters/redis_counters/scripts/check.lua, which a property test holds to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum

from services.quota.domain.checks import Applied, Check, Consumption, Mode, matching
from services.quota.domain.entitlements import Standing
from services.quota.domain.limits import Counter, Limit, LimitKind, Usage
from services.quota.domain.maxima import COUNTER_MAX


class Outcome(Enum):
    """Whether the work may be done."""

    ALLOWED = "ALLOWED"
    ALLOWED_IN_GRACE = "ALLOWED_IN_GRACE"
    DENIED = "DENIED"


class DenyReason(Enum):
    """Why not."""

    LIMIT_REACHED = "LIMIT_REACHED"
    CONCURRENCY = "CONCURRENCY"
    SUSPENDED = "SUSPENDED"
    NO_PLAN = "NO_PLAN"


class Remedy(IntEnum):
    """What could let a denied check through as it is, the least first."""

    RELEASE = 1
    """A reservation that ends."""
    RESET = 2
    """The period that starts anew."""
    NOTHING = 3
    """It asks for more than there ever is, or the standing denies."""


_REASONS = {LimitKind.PERIOD: DenyReason.LIMIT_REACHED, LimitKind.CONCURRENCY: DenyReason.CONCURRENCY}
_STANDING_REASONS = {Standing.SUSPENDED: DenyReason.SUSPENDED, Standing.NO_PLAN: DenyReason.NO_PLAN}


@dataclass(frozen=True, slots=True)
class LimitState:
    """One limit with what is counted against it; `outcome` is what it alone says, None where nothing was asked."""

    limit: Limit
    counter: Counter
    used: int
    held: int
    outcome: Outcome | None = None

    @property
    def remaining(self) -> int | None:
        """What is left up to the hard limit, never negative; None: unlimited."""
        return None if self.limit.hard is None else max(0, self.limit.hard - self.used - self.held)


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a check."""

    outcome: Outcome
    reason: DenyReason | None
    """Why it was denied: the standing's, else that of the first limit that denies."""
    states: tuple[LimitState, ...]
    """Every limit that was decided, those that deny first. `held` includes what this check holds."""
    remedy: Remedy | None = None
    """What must happen before the same check could be allowed; None when it is."""

    @property
    def is_denied(self) -> bool:
        """Whether the work may not be done."""
        return self.outcome is Outcome.DENIED


def decide(
    limits: Iterable[Limit], usage: Mapping[Counter, Usage], check: Check, *, standing: Standing = Standing.ACTIVE
) -> Decision:
    """Decides every limit that the check touches, all or nothing. A counter that usage does not name is at 0.

    A quantity q is allowed while used + held + q is at most the hard limit, and is in the grace band when that sum is
    above the limit. A gate is decided as a quantity of 1 and holds nothing. Concurrency limits count no usage.
    """
    consumptions = {consumption.meter: consumption for consumption in check.consumptions}
    states = [
        _state(applied, usage.get(applied.counter, Usage()), consumptions[applied.counter.meter])
        for applied in matching(limits, check)
    ]
    denying = [state for state in states if state.outcome is Outcome.DENIED]
    if standing is not Standing.ACTIVE:
        return Decision(Outcome.DENIED, _STANDING_REASONS[standing], _denying_first(states), Remedy.NOTHING)
    if denying:
        remedy = max(_remedy(state, consumptions[state.counter.meter]) for state in denying)
        return Decision(Outcome.DENIED, _REASONS[denying[0].limit.kind], _denying_first(states), remedy)
    if check.mode is Mode.RESERVE:
        states = [_holding(state, consumptions[state.counter.meter]) for state in states]
    in_grace = any(state.outcome is Outcome.ALLOWED_IN_GRACE for state in states)
    return Decision(Outcome.ALLOWED_IN_GRACE if in_grace else Outcome.ALLOWED, None, tuple(states))


def hold(held: int, quantity: int) -> int:
    """What a counter holds after a hold of a quantity: a counter stays where its maximum is."""
    return min(held + quantity, COUNTER_MAX)


def _state(applied: Applied, usage: Usage, consumption: Consumption) -> LimitState:
    limit = applied.limit
    used = usage.used if limit.kind is LimitKind.PERIOD else 0
    if limit.value is None or limit.hard is None:
        outcome = Outcome.ALLOWED
    elif consumption.needed > limit.hard - used - usage.held:
        outcome = Outcome.DENIED
    elif consumption.needed > limit.value - used - usage.held:
        outcome = Outcome.ALLOWED_IN_GRACE
    else:
        outcome = Outcome.ALLOWED
    return LimitState(limit, applied.counter, used, usage.held, outcome)


def _holding(state: LimitState, consumption: Consumption) -> LimitState:
    return replace(state, held=hold(state.held, consumption.holdable))


def _remedy(state: LimitState, consumption: Consumption) -> Remedy:
    hard = state.limit.hard or 0
    if consumption.needed <= hard - state.used:
        return Remedy.RELEASE
    return Remedy.RESET if consumption.needed <= hard else Remedy.NOTHING


def _denying_first(states: Iterable[LimitState]) -> tuple[LimitState, ...]:
    return tuple(sorted(states, key=lambda state: state.outcome is not Outcome.DENIED))
