"""The decision: pure, and the twin of adapters/redis_counters/scripts/check.lua, which a property test holds to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import assert_never

from kit.enums import IdentityEnum
from services.quota.domain.checks import Applied, Check, Consumption, Mode
from services.quota.domain.entitlements import Standing
from services.quota.domain.limits import Counter, Limit, LimitKind, Usage
from services.quota.domain.maxima import COUNTER_MAX
from services.quota.domain.windows import Admitted, WindowCounter


class Outcome(IdentityEnum):
    """Whether the work may be done."""

    ALLOWED = "ALLOWED"
    ALLOWED_IN_GRACE = "ALLOWED_IN_GRACE"
    DENIED = "DENIED"


class DenyReason(IdentityEnum):
    """Why not."""

    LIMIT_REACHED = "LIMIT_REACHED"
    CONCURRENCY = "CONCURRENCY"
    RATE = "RATE"
    SUSPENDED = "SUSPENDED"
    NO_PLAN = "NO_PLAN"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"


class Remedy(IntEnum):
    """What could let a denied check through as it is, the least first."""

    ROOM = 1
    """What leaves a window."""
    RELEASE = 2
    """A reservation that ends."""
    RESET = 3
    """The period that starts anew."""
    NOTHING = 4
    """It asks for more than there ever is, or the standing denies."""


NOTHING_DRAWN: Mapping[str, int] = {}

_REASONS = {
    LimitKind.PERIOD: DenyReason.LIMIT_REACHED,
    LimitKind.WINDOW: DenyReason.RATE,
    LimitKind.CONCURRENCY: DenyReason.CONCURRENCY,
}
STANDING_REASONS = {Standing.SUSPENDED: DenyReason.SUSPENDED, Standing.NO_PLAN: DenyReason.NO_PLAN}


@dataclass(frozen=True, slots=True)
class LimitState:
    """One limit with what is counted against it; `outcome` is what it alone says, None where nothing was asked."""

    limit: Limit
    counter: Counter
    used: int
    """By the ledger in the period; of a window limit, what was admitted within the window."""
    held: int
    outcome: Outcome | None = None
    empty_us: int | None = None
    """Of a window: when `used` comes to 0, if nothing is admitted meanwhile; None: it is 0."""
    room_us: int | None = None
    """Of a window that denies: when what was asked will fit, if nothing else is admitted; None: never."""

    @property
    def remaining(self) -> int | None:
        """What is left up to the hard limit, never negative; None: unlimited."""
        return None if self.limit.hard is None else max(0, self.limit.hard - self.used - self.held)

    @property
    def denies(self) -> bool:
        """Whether it stands in the way. A shadow limit never does."""
        return self.outcome is Outcome.DENIED and not self.limit.shadow


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a check."""

    outcome: Outcome
    reason: DenyReason | None
    """Why it was denied: the standing's, else that of the first limit that denies."""
    states: tuple[LimitState, ...]
    """Every limit that was decided, those that deny first. They include what this check holds and admits."""
    remedy: Remedy | None = None
    """What must happen before the same check could be allowed; None when it is."""
    room_us: int | None = None
    """When every window that denies will have room; None: no window denies."""

    @property
    def is_denied(self) -> bool:
        """Whether the work may not be done."""
        return self.outcome is Outcome.DENIED


@dataclass(frozen=True, slots=True)
class Counted:
    """What the counters say at a moment. Those that are not named are at 0."""

    usage: Mapping[Counter, Usage]
    windows: Mapping[WindowCounter, Admitted]
    """Those of every window limit that applies."""


def decide(
    applied: Sequence[Applied],
    counted: Counted,
    check: Check,
    *,
    standing: Standing = Standing.ACTIVE,
    growth_only: bool = False,
    drawn: Mapping[str, int] = NOTHING_DRAWN,
) -> tuple[Decision, Counted]:
    """Decides every limit that applies to the check, all or nothing, and says what is counted afterwards.

    A quantity q is allowed while used + held + q is at most the hard limit, and is in the grace band when that sum is
    above the limit. A gate is decided as a quantity of 1, and holds and admits nothing. A period limit compares what is
    used and held, a concurrency limit what is held, a window limit what was admitted. RESERVE holds under every scope
    of the subject and admits, CONSUME admits. With `growth_only` a quantity of 0 is allowed by every limit. What was
    `drawn` of a meter by usage that came before the reservation is not held again.
    """
    consumptions = {consumption.meter: consumption for consumption in check.consumptions}
    states = [_judged(each, counted, consumptions[each.limit.meter], growth_only=growth_only) for each in applied]
    decision = conclude(states, check.consumptions, standing)
    if decision.is_denied or check.mode is Mode.DECIDE:
        return decision, counted
    after = _moved(applied, counted, check, drawn)
    shown = tuple(_shown(state, after) for state in decision.states)
    return replace(decision, states=shown), after


def decide_all(
    asked: Sequence[tuple[Sequence[Applied], Check]], counted: Counted, *, standing: Standing = Standing.ACTIVE
) -> tuple[Sequence[Decision], Counted]:
    """Decides consumptions of one organization all or none: each sees what those before it admitted, and when one is
    denied nothing is admitted. Their limits then say what is counted without them.
    """
    decisions: list[Decision] = []
    after = counted
    for applied, check in asked:
        decision, after = decide(applied, after, check, standing=standing)
        decisions.append(decision)
    if not any(decision.is_denied for decision in decisions):
        return decisions, after
    shown = [tuple(_shown(state, counted) for state in decision.states) for decision in decisions]
    return [replace(decision, states=states) for decision, states in zip(decisions, shown, strict=True)], counted


def conclude(states: Iterable[LimitState], consumptions: Iterable[Consumption], standing: Standing) -> Decision:
    """The answer that follows from what each limit says, in the order they are reported."""
    denying: list[LimitState] = []
    others: list[LimitState] = []
    outcome = Outcome.ALLOWED
    for state in states:
        if state.denies:
            denying.append(state)
            continue
        others.append(state)
        if state.outcome is Outcome.ALLOWED_IN_GRACE and not state.limit.shadow:
            outcome = Outcome.ALLOWED_IN_GRACE
    ordered = (*denying, *others)
    if standing is not Standing.ACTIVE:
        return Decision(Outcome.DENIED, STANDING_REASONS[standing], ordered, Remedy.NOTHING)
    if not denying:
        return Decision(outcome, None, ordered)
    needed = {consumption.meter: consumption.needed for consumption in consumptions}
    remedy = max(_remedy(state, needed[state.limit.meter]) for state in denying)
    room_us = max((state.room_us for state in denying if state.room_us is not None), default=None)
    return Decision(Outcome.DENIED, _REASONS[denying[0].limit.kind], ordered, remedy, room_us)


def _judged(applied: Applied, counted: Counted, consumption: Consumption, *, growth_only: bool) -> LimitState:
    limit, counter = applied.limit, applied.counter
    usage = counted.usage.get(counter, Usage())
    match limit.kind:
        case LimitKind.PERIOD:
            state = LimitState(limit, counter, usage.used, usage.held)
        case LimitKind.CONCURRENCY:
            state = LimitState(limit, counter, 0, usage.held)
        case LimitKind.WINDOW:
            admitted = _window(applied, counted)
            state = LimitState(limit, counter, admitted.quantity, 0, empty_us=admitted.empty_us)
        case _:
            assert_never(limit.kind)
    outcome = _outcome(state, consumption, growth_only=growth_only)
    room_us = None
    if outcome is Outcome.DENIED and limit.window is not None:
        room_us = _window(applied, counted).room_us(consumption.needed, limit.hard or 0)
    return replace(state, outcome=outcome, room_us=room_us)


def _outcome(state: LimitState, consumption: Consumption, *, growth_only: bool) -> Outcome:
    limit, hard = state.limit.value, state.limit.hard
    if limit is None or hard is None or (growth_only and consumption.quantity == 0):
        return Outcome.ALLOWED
    # Subtractions, as in the script: a sum could pass 2^53.
    if consumption.needed > hard - state.used - state.held:
        return Outcome.DENIED
    if consumption.needed > limit - state.used - state.held:
        return Outcome.ALLOWED_IN_GRACE
    return Outcome.ALLOWED


def _moved(applied: Sequence[Applied], counted: Counted, check: Check, drawn: Mapping[str, int]) -> Counted:
    usage, windows = dict(counted.usage), dict(counted.windows)
    scopes = check.subject.scopes
    for consumption in check.consumptions if check.mode is Mode.RESERVE else ():
        counters = [Counter(scope, consumption.meter) for scope in scopes]
        hold = holdable(usage, counters, max(0, consumption.holdable - drawn.get(consumption.meter, 0)))
        for counter in counters if hold else ():
            before = usage.get(counter, Usage())
            usage[counter] = Usage(before.used, before.held + hold)
    quantities = {consumption.meter: consumption.holdable for consumption in check.consumptions}
    for key in {WindowCounter(each.counter, each.limit.window) for each in applied if each.limit.window is not None}:
        windows[key] = windows[key].admit(quantities[key.counter.meter])
    return Counted(usage, windows)


def holdable(usage: Mapping[Counter, Usage], counters: Iterable[Counter], quantity: int) -> int:
    """How much of a quantity is held, under all of the counters alike: none of them passes the maximum."""
    return min(quantity, *(COUNTER_MAX - usage.get(counter, Usage()).held for counter in counters))


def _shown(state: LimitState, after: Counted) -> LimitState:
    if state.limit.window is None:
        return replace(state, held=after.usage.get(state.counter, Usage()).held)
    admitted = after.windows[WindowCounter(state.counter, state.limit.window)]
    return replace(state, used=admitted.quantity, empty_us=admitted.empty_us)


def _window(applied: Applied, counted: Counted) -> Admitted:
    if applied.limit.window is None:
        raise AssertionError(f"{applied.limit.limit_id} is of a window and has none")
    return counted.windows[WindowCounter(applied.counter, applied.limit.window)]


def _remedy(state: LimitState, needed: int) -> Remedy:
    hard = state.limit.hard or 0
    if state.limit.kind is LimitKind.WINDOW:
        return Remedy.NOTHING if state.room_us is None else Remedy.ROOM
    if needed <= hard - state.used:
        return Remedy.RELEASE
    return Remedy.RESET if needed <= hard else Remedy.NOTHING
