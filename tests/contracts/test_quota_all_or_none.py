"""Consumptions that are counted together or not at all, on memory and on Redis."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.quota.domain.checks import Check, Mode
from services.quota.domain.decisions import Outcome
from services.quota.domain.limits import Limit, LimitKind, LimitScope, ScopeKind
from tests.contracts.quota_house import DAY, SECOND, House, rate_limit
from tests.unit.quota.samples import CALLS, MINUTES, minutes_limit


def consumed(house: House, quantity: int | None = 1, *, meter: str = CALLS, **subject: str) -> Check:
    return house.asks({meter: quantity}, Mode.CONSUME, **subject)


def brought(value: int, *, user: str) -> Limit:
    return Limit("brought", LimitScope(ScopeKind.USER, user), CALLS, LimitKind.WINDOW, value, 0, DAY)


async def test_consumptions_together_see_what_those_before_them_admitted(house: House) -> None:
    await house.begin(own=(rate_limit(10),))
    answers = await house.store.check_all([consumed(house, 4), consumed(house, 6)], house.terms)
    assert [answer.decision.outcome for answer in answers] == [Outcome.ALLOWED] * 2
    assert [answer.decision.states[0].used for answer in answers] == [4, 10]
    assert await house.rate() == 10


async def test_one_denial_leaves_every_counter_unchanged_and_shows_them_so(house: House) -> None:
    await house.begin(own=(rate_limit(10),))
    await house.check({CALLS: 3}, Mode.CONSUME)
    answers = await house.store.check_all([consumed(house, 4), consumed(house, 4), consumed(house, 3)], house.terms)
    outcomes = [Outcome.ALLOWED, Outcome.DENIED, Outcome.ALLOWED]
    assert [answer.decision.outcome for answer in answers] == outcomes
    assert [answer.decision.states[0].used for answer in answers] == [3, 3, 3]
    room_us = answers[1].decision.room_us
    assert room_us is not None
    assert room_us % DAY.length_us == 0
    assert await house.rate() == 3


async def test_a_limit_of_another_meter_denies_them_all(house: House) -> None:
    await house.begin(minutes_limit(5), own=(rate_limit(10),))
    answers = await house.store.check_all([consumed(house), consumed(house, 6, meter=MINUTES)], house.terms)
    assert answers[1].decision.is_denied
    assert await house.rate() == 0


async def test_a_limit_that_a_check_brings_denies_it_alone(house: House) -> None:
    await house.begin(own=(rate_limit(100),))
    limited = replace(consumed(house, 2, user_id="ann"), brought=(brought(2, user="ann"),))
    answers = await house.store.check_all([limited, consumed(house, 2, user_id="ann")], house.terms)
    assert [len(answer.decision.states) for answer in answers] == [2, 1]
    assert not any(answer.decision.is_denied for answer in answers)
    again = await house.store.check(limited, house.terms)
    assert again.decision.states[0].limit.limit_id == "brought"
    assert again.decision.is_denied
    assert not (await house.store.check(consumed(house, user_id="ann"), house.terms)).decision.is_denied


async def test_windows_that_two_checks_share_are_counted_once_for_each(house: House) -> None:
    await house.begin(own=(rate_limit(9, name="a"), rate_limit(8, name="b"), rate_limit(100, SECOND, name="c")))
    answers = await house.store.check_all([consumed(house, 4), consumed(house, 5)], house.terms)
    assert [answer.decision.is_denied for answer in answers] == [False, True]
    assert await house.rate() == 0
    assert await house.rate(SECOND) == 0


@pytest.mark.parametrize("mode", [Mode.DECIDE, Mode.RESERVE])
async def test_only_consumptions_can_be_taken_back_together(house: House, mode: Mode) -> None:
    await house.begin()
    with pytest.raises(AssertionError):
        await house.store.check_all([house.asks({CALLS: 1}, mode, "r1")], house.terms)
