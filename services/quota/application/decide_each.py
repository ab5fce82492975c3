"""Decide each of many checks of one organization in one call of the store, so that what fails in one fails it alone."""

from __future__ import annotations

from collections.abc import Sequence

from kit.errors import Refused
from services.quota.application.ports import Answer, Counters, CountersBehind, CountersMissing, TermsOutdated
from services.quota.domain.checks import Check, Mode
from services.quota.domain.terms import Terms

# What the store says of all checks of a call alike: nothing of it was decided, or nothing is known.
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
        if len(checks) == 1:
            return [error]
        return [await _alone(counters, each, terms, error, period_confirmed=period_confirmed) for each in checks]


async def _alone(
    counters: Counters, check: Check, terms: Terms, error: Exception, *, period_confirmed: bool
) -> Answer | Exception:
    if check.mode is Mode.CONSUME and not check.request_id:
        return error
    try:
        return await counters.check(check, terms, period_confirmed=period_confirmed)
    except Exception as own:  # noqa: BLE001 - it is the caller's to see
        return own
