"""Denials that a process gives again without asking the store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kit.clock import unix_microseconds
from kit.testing.clock import FakeClock
from services.quota.adapters.memory import MemoryCounters
from services.quota.application import remember_denials
from services.quota.application.ports import Answer, ChangeRequest, TermsOutdated
from services.quota.application.remember_denials import RememberDenials
from services.quota.domain.checks import Check, Mode
from services.quota.domain.decisions import Outcome, Remedy
from services.quota.domain.entitlements import Period
from services.quota.domain.limits import Limit, LimitKind, LimitScope, ScopeKind, Window, WindowStyle
from services.quota.domain.maxima import DENIAL_REMEMBERED_SECONDS
from services.quota.domain.terms import Terms
from tests.unit.quota.house import House
from tests.unit.quota.samples import (
    AGENTS,
    MINUTES,
    agents_limit,
    decide_check,
    entitlement,
    minutes_limit,
    period_around,
    reserve_check,
    usage_entry,
)


class Stage:
    """An organization of which 95 of 100 are used, on a clock that stands still."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.counters = MemoryCounters(self.clock)
        self.house = House(self.counters, "acme")
        self.asked = 0
        self.seconds = 0.0
        self.remembering = RememberDenials(self, now=lambda: self.seconds)
        self.period = period_around(self.clock.now())
        self._terms: Terms | None = None

    async def settle(self, *limits: Limit, version: int = 1) -> None:
        self.house.plans.set(entitlement("acme", *limits, version=version, period=self.period))
        await self.house.plan_changes.catch_up("acme")
        now_us = unix_microseconds(self.clock.now())
        self.house.record(usage_entry({MINUTES: 95}, event_time_us=now_us))
        await self.house.list("acme")
        self._terms = await self.house.terms("acme")

    async def check(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer:
        self.asked += 1
        return await self.counters.check(check, terms, period_confirmed=period_confirmed)

    def begin(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer | asyncio.Future[Answer]:
        return asyncio.ensure_future(self.check(check, terms, period_confirmed=period_confirmed))

    async def ask(self, check: Check, *, terms: Terms | None = None) -> tuple[Outcome, int]:
        """The outcome, and how often the store was asked."""
        before = self.asked
        found = terms or self._terms
        assert found is not None
        answer = await self.remembering.check(check, found)
        return answer.decision.outcome, self.asked - before

    @property
    def terms(self) -> Terms:
        assert self._terms is not None
        return self._terms


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.settle(minutes_limit(100), agents_limit(1))
    return stage


def minutes(quantity: int) -> Check:
    return decide_check("acme", {MINUTES: quantity})


async def test_a_denial_by_usage_is_given_again_without_asking(stage: Stage) -> None:
    assert await stage.ask(minutes(10)) == (Outcome.DENIED, 1)
    assert await stage.ask(minutes(10)) == (Outcome.DENIED, 0)
    assert await stage.ask(minutes(11)) == (Outcome.DENIED, 0)


async def test_a_denial_never_answers_a_smaller_request(stage: Stage) -> None:
    await stage.ask(minutes(10))
    assert await stage.ask(minutes(9)) == (Outcome.DENIED, 1)
    assert await stage.ask(minutes(5)) == (Outcome.ALLOWED, 1)


async def test_a_denial_is_asked_again_after_200_ms(stage: Stage) -> None:
    await stage.ask(minutes(10))
    stage.seconds = 0.199
    assert await stage.ask(minutes(10)) == (Outcome.DENIED, 0)
    stage.seconds = 0.2
    assert await stage.ask(minutes(10)) == (Outcome.DENIED, 1)


async def test_a_denial_is_never_remembered_past_the_reset(stage: Stage) -> None:
    # The period ends in 50 ms.
    now_us = unix_microseconds(stage.clock.now())
    stage.period = Period(now_us - 1_000_000_000, now_us + 50_000)
    await stage.settle(minutes_limit(1), version=2)
    await stage.ask(minutes(10))
    stage.seconds = 0.049
    assert (await stage.ask(minutes(10)))[1] == 0
    stage.seconds = 0.05
    assert (await stage.ask(minutes(10)))[1] == 1


async def test_a_denial_that_a_release_can_lift_is_asked_again(stage: Stage) -> None:
    await stage.counters.check(reserve_check("acme", {MINUTES: 3, AGENTS: 1}), stage.terms)
    assert await stage.ask(minutes(4)) == (Outcome.DENIED, 1)
    assert await stage.ask(minutes(4)) == (Outcome.DENIED, 1)
    assert await stage.ask(decide_check("acme", {AGENTS: 1})) == (Outcome.DENIED, 1)
    assert await stage.ask(decide_check("acme", {AGENTS: 1})) == (Outcome.DENIED, 1)


async def test_a_retry_of_a_reservation_gets_its_first_answer_whatever_is_remembered(stage: Stage) -> None:
    reservation = reserve_check("acme", {MINUTES: 5}, request_id="r")
    assert await stage.ask(reservation) == (Outcome.ALLOWED, 1)
    stage.house.record(usage_entry({MINUTES: 50}, event_time_us=unix_microseconds(stage.clock.now())))
    await stage.house.follow()
    assert await stage.ask(minutes(5)) == (Outcome.DENIED, 1)
    assert await stage.ask(reservation) == (Outcome.ALLOWED, 1)
    consumption = replace(minutes(5), mode=Mode.CONSUME, request_id="c")
    assert (await stage.ask(consumption))[1] == 1
    assert (await stage.ask(consumption))[1] == 1


async def test_a_raised_limit_is_in_force_as_soon_as_the_process_knows_it(stage: Stage) -> None:
    await stage.ask(minutes(10))
    stage.house.plans.set(entitlement("acme", minutes_limit(200), version=2, period=stage.period))
    await stage.house.plan_changes.catch_up("acme")
    raised = await stage.house.terms("acme")
    assert await stage.ask(minutes(10), terms=raised) == (Outcome.ALLOWED, 1)


async def test_a_limit_of_ones_own_is_in_force_for_every_process_when_set_limit_answers(stage: Stage) -> None:
    """Another process that has not heard of it yet, and remembers a denial from just before, asks again by then."""
    await stage.ask(minutes(10))
    limit = Limit("", LimitScope(ScopeKind.ORGANIZATION), MINUTES, LimitKind.PERIOD, 1, 0)
    await stage.house.set_limit("acme", limit, ChangeRequest(request_id="set", digest=b"d", actor="key-1"))
    stage.seconds = sum(stage.house.pauses)
    assert stage.seconds >= DENIAL_REMEMBERED_SECONDS
    with pytest.raises(TermsOutdated):
        await stage.ask(minutes(10))


async def test_a_denial_of_one_user_is_none_of_another(stage: Stage) -> None:
    limit = Limit("lim_1", LimitScope(ScopeKind.USER), MINUTES, LimitKind.PERIOD, 1, 0)
    own = replace(stage.terms.own, limits=(limit,))
    terms = Terms(stage.terms.entitlement, own)
    keys = {
        remember_denials._counters_key(replace(minutes(1), subject=replace(minutes(1).subject, user_id=user)), terms)
        for user in ("a", "b")
    }
    assert len(keys) == 2


async def test_what_no_limit_looks_at_makes_no_difference(stage: Stage) -> None:
    await stage.ask(minutes(10))
    of_a_task = replace(minutes(10), subject=replace(minutes(10).subject, task_id="task-1", user_id="u"))
    assert await stage.ask(of_a_task) == (Outcome.DENIED, 0)


async def test_a_check_that_brings_limits_along_is_always_asked(stage: Stage) -> None:
    await stage.ask(minutes(10))
    window = Limit(
        "w", LimitScope(ScopeKind.USER), MINUTES, LimitKind.WINDOW, 1, 0, Window(1_000_000, WindowStyle.FIXED)
    )
    assert await stage.ask(replace(minutes(10), brought=(window,))) == (Outcome.DENIED, 1)


async def test_a_larger_request_is_told_what_is_true_of_it(stage: Stage) -> None:
    reset = await stage.remembering.check(minutes(10), stage.terms)
    never = await stage.remembering.check(minutes(101), stage.terms)
    assert (reset.decision.remedy, never.decision.remedy) == (Remedy.RESET, Remedy.NOTHING)
    assert never.decision == (await stage.counters.check(minutes(101), stage.terms)).decision
    assert stage.asked == 1


async def test_as_many_denials_are_remembered_as_may_be(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remember_denials, "REMEMBERED_DENIALS_MAX", 2)
    for meters in ({MINUTES: 10}, {MINUTES: 10, AGENTS: 0}, {MINUTES: 10, AGENTS: 0, "api_calls": 0}):
        await stage.ask(decide_check("acme", dict(meters)))
    assert len(stage.remembering._denials) == 2


async def test_time_that_passed_while_the_store_was_asked_counts(stage: Stage) -> None:
    class Slow:
        async def check(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer:
            stage.seconds += 0.15
            return await stage.check(check, terms, period_confirmed=period_confirmed)

        def begin(
            self, check: Check, terms: Terms, *, period_confirmed: bool = False
        ) -> Answer | asyncio.Future[Answer]:
            return asyncio.ensure_future(self.check(check, terms, period_confirmed=period_confirmed))

    slow = RememberDenials(Slow(), now=lambda: stage.seconds)
    await slow.check(minutes(10), stage.terms)
    stage.seconds += 0.05
    before = stage.asked
    await slow.check(minutes(10), stage.terms)
    assert stage.asked == before + 1


async def test_a_denial_by_terms_that_were_replaced_before_it_arrived_is_not_given_again() -> None:
    stage = Stage()
    await stage.settle(minutes_limit(100))
    check = decide_check("acme", {MINUTES: 10})
    answer = await stage.remembering.check(check, stage.terms)
    assert answer.decision.is_denied
    assert stage.remembering.repeatable(check, stage.terms, answer) is not None
    upgraded = replace(stage.terms, entitlement=replace(stage.terms.entitlement, version=2))
    assert stage.remembering.repeatable(check, upgraded, answer) is None
