"""The decision without counters: by each limit's policy, and by what this process has given away meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.quota.domain.checks import Applied, Check, Consumption
from services.quota.domain.decisions import Decision, DenyReason, LimitState, Outcome, conclude
from services.quota.domain.entitlements import Standing
from services.quota.domain.limits import Limit, UnavailablePolicy

ALLOWANCE_DIVISOR = 100
"""A process may give away one hundredth of a hard limit that it cannot look at."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a process knows of a limit's counter."""

    used: int = 0
    """When last seen; 0 when never."""
    held: int = 0
    is_known: bool = False
    """Whether it was ever seen, and may still be so."""
    given: int = 0
    """What the process has allowed of it that the store was not told."""


def allowance(limit: Limit, seen: Seen) -> int | None:
    """What one process may give away of a limit while its counter cannot be reached: one hundredth of the hard limit,
    at least 1, never more than was left when last seen. None: it is unlimited.
    """
    if limit.hard is None:
        return None
    left = limit.hard - seen.used - seen.held if seen.is_known else limit.hard
    return max(0, min(max(1, limit.hard // ALLOWANCE_DIVISOR), left))


def decide_degraded(
    applied: Sequence[Applied],
    seen: Sequence[Seen],
    check: Check,
    *,
    standing: Standing = Standing.ACTIVE,
    growth_only: bool = False,
) -> Decision:
    """Decides every limit that applies to the check, all or nothing, by what is known of each (in the same order).

    A limit with DENY denies. One with ALLOW allows while what the process has given away of it, with this, is within
    its allowance. One without a value allows. With `growth_only` a quantity of 0 is allowed by every limit. States
    show the counters as last seen, and as held what was given away since. Every denial but the standing's is
    STORE_UNAVAILABLE: nothing is known of when it could be lifted.
    """
    consumptions = {consumption.meter: consumption for consumption in check.consumptions}
    states: list[LimitState] = []
    for each, known in zip(applied, seen, strict=True):
        consumption = consumptions[each.limit.meter]
        outcome = _outcome(each.limit, known, consumption, growth_only=growth_only)
        states.append(LimitState(each.limit, each.counter, known.used, known.held + known.given, outcome))
    decision = conclude(states, check.consumptions, standing)
    if not decision.is_denied or standing is not Standing.ACTIVE:
        return decision
    return replace(decision, reason=DenyReason.STORE_UNAVAILABLE, remedy=None, room_us=None)


def _outcome(limit: Limit, seen: Seen, consumption: Consumption, *, growth_only: bool) -> Outcome:
    allowed = allowance(limit, seen)
    if allowed is None or limit.value is None or (growth_only and consumption.quantity == 0):
        return Outcome.ALLOWED
    if limit.on_unavailable is UnavailablePolicy.DENY or consumption.needed > allowed - seen.given:
        return Outcome.DENIED
    if seen.is_known and consumption.needed > limit.value - seen.used - seen.held - seen.given:
        return Outcome.ALLOWED_IN_GRACE
    return Outcome.ALLOWED
