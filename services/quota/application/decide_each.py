"""Decide each of many checks in one call of the store, so that what fails in one fails it alone."""

from __future__ import annotations

from collections.abc import Sequence

from kit.errors import Refused
from services.quota.application.ports import (
    Answer,
    CheckGroup,
    Counters,
    CountersBehind,
    CountersMissing,
    TermsOutdated,
)
from services.quota.domain.checks import Check, Mode
from services.quota.domain.terms import Terms

# What the store says of all checks of an organization alike: nothing of it was decided, or nothing is known.
_OF_ALL = (TermsOutdated, CountersMissing, CountersBehind, Refused)


async def decide_each(
    counters: Counters, checks: Sequence[Check], terms: Terms, *, period_confirmed: bool
) -> Sequence[Answer | Exception]:
    """The answers in order, or what is wrong with a check. Raises as Counters.check_many what is true of all.

    When a defect breaks the call, the checks are decided one after the other, so that it meets the check that has it.
    One that could count twice if it was decided after all, because no id tells it from another, is not asked again.
    """
    try:
        return await counters.check_many(checks, terms, period_confirmed=period_confirmed)
    except _OF_ALL:
        raise
    except Exception as error:  # noqa: BLE001 - a defect: whose is it?
        group = CheckGroup(checks, terms, period_confirmed=period_confirmed)
        return await _apart(counters, group, error, shared_count=len(checks))


async def decide_groups(counters: Counters, groups: Sequence[CheckGroup]) -> Sequence[Sequence[Answer | Exception]]:
    """The same of checks of several organizations, and what is true of all checks of a group as the outcome of each."""
    decided: Sequence[Sequence[Answer | Exception] | Exception]
    shared_count = 0
    try:
        decided = await counters.check_groups(groups)
    except Exception as error:  # noqa: BLE001 - it is all those callers' to see
        decided = [error] * len(groups)
        shared_count = sum(len(group.checks) for group in groups)
    return [
        await _each_told(counters, group, outcome, shared_count=shared_count or len(group.checks))
        if isinstance(outcome, Exception)
        else outcome
        for group, outcome in zip(groups, decided, strict=True)
    ]


async def _each_told(
    counters: Counters, group: CheckGroup, error: Exception, *, shared_count: int
) -> Sequence[Answer | Exception]:
    if isinstance(error, _OF_ALL):
        return [error] * len(group.checks)
    return await _apart(counters, group, error, shared_count=shared_count)


async def _apart(
    counters: Counters, group: CheckGroup, error: Exception, *, shared_count: int
) -> Sequence[Answer | Exception]:
    """shared_count: how many checks of this and other groups the error is of."""
    if shared_count == 1:
        return [error]
    return [await _alone(counters, each, group, error) for each in group.checks]


async def _alone(counters: Counters, check: Check, group: CheckGroup, error: Exception) -> Answer | Exception:
    if check.mode is Mode.CONSUME and not check.request_id:
        return error
    try:
        return await counters.check(check, group.terms, period_confirmed=group.period_confirmed)
    except Exception as own:  # noqa: BLE001 - it is the caller's to see
        return own
