from __future__ import annotations

import asyncio

import pytest

from tests.unit.sdk.stage import AWAY, Stage, rest, stage
from tollbook.metering.v1.metering_pb2 import Subject
from tollbook.quota.v1 import quota_pb2
from tollbook_sdk.checks import check_request
from tollbook_sdk.decision import Decision, OnUnavailable
from tollbook_sdk.errors import RequestRefused
from tollbook_sdk.suite import CallFailed

_BUDGET = 0.05


def request(quantity: int = 1, *, hold: float | None = 30.0) -> quota_pb2.CheckRequest:
    return check_request("r-1", Subject(), {"api_calls": quantity}, hold_seconds=hold)


async def after_the_budget(at: Stage, message: quota_pb2.CheckRequest) -> Decision:
    asking = asyncio.ensure_future(at.checks.check(message, _BUDGET))
    await at.clock.advance(_BUDGET)
    return await asking


async def test_a_denial_says_why_which_limit_and_what_is_left() -> None:
    async with stage({"api_calls": 5}) as at:
        decision = await at.checks.check(request(6), _BUDGET)
        assert (decision.allowed, decision.reason) == (False, "LIMIT_REACHED")
        assert decision.limit is not None
        assert (decision.limit.limit_id, decision.left_of("api_calls")) == ("plan:api_calls", 5)
        assert at.suite.reservations == {}


async def test_no_attempt_is_given_more_time_than_is_left_of_the_budget() -> None:
    async with stage() as at:
        at.suite.failure = AWAY
        assert (await after_the_budget(at, request())).degraded
        assert at.suite.deadlines == sorted(at.suite.deadlines, reverse=True)
        assert at.suite.deadlines[0] == pytest.approx(_BUDGET)
        assert len(at.suite.calls) > 1


async def test_a_server_that_asks_for_time_is_not_asked_again_within_the_budget() -> None:
    async with stage() as at:
        at.suite.failure = CallFailed("RESOURCE_EXHAUSTED", retry_seconds=10)
        await after_the_budget(at, request())
        assert at.suite.calls == ["check"]


async def test_a_suite_that_comes_back_within_the_budget_is_asked_again_with_the_same_id() -> None:
    async with stage({"api_calls": 5}) as at:
        at.suite.failure, at.suite.loses_answers = AWAY, True
        asking = asyncio.ensure_future(at.checks.check(request(5), _BUDGET))
        await rest()
        at.suite.failure = None
        await at.clock.advance(_BUDGET)
        decision = await asking
        assert (decision.allowed, decision.degraded, at.suite.held("api_calls")) == (True, False, 5)


async def test_without_the_suite_the_policy_allow_allows_and_says_that_it_is_degraded() -> None:
    async with stage(on_unavailable=OnUnavailable.ALLOW) as at:
        at.suite.failure = AWAY
        decision = await after_the_budget(at, request())
        assert (decision.allowed, decision.degraded, decision.reservation_id) == (True, True, "r-1")


async def test_without_the_suite_the_policy_deny_denies_and_lets_go_of_what_may_be_held() -> None:
    async with stage({"api_calls": 5}, on_unavailable=OnUnavailable.DENY) as at:
        at.suite.failure, at.suite.loses_answers = AWAY, True
        decision = await after_the_budget(at, request())
        await rest()
        assert (decision.allowed, decision.degraded, decision.reason) == (False, True, "STORE_UNAVAILABLE")
        assert at.suite.held("api_calls") == 0


@pytest.mark.parametrize("policy", list(OnUnavailable))
async def test_a_request_that_is_wrong_is_an_error_whatever_the_policy(policy: OnUnavailable) -> None:
    async with stage(on_unavailable=policy) as at:
        at.suite.failure = CallFailed("INVALID_ARGUMENT", "UNKNOWN_METER", "api_cals")
        with pytest.raises(RequestRefused, match="UNKNOWN_METER") as raised:
            await at.checks.check(request(), _BUDGET)
        assert (raised.value.code, raised.value.reason) == ("INVALID_ARGUMENT", "UNKNOWN_METER")


async def test_b14_a_caller_that_goes_away_in_the_middle_of_a_check_leaves_nothing_held() -> None:
    async with stage({"api_calls": 5}) as at:
        at.suite.failure, at.suite.loses_answers = AWAY, True
        asking = asyncio.ensure_future(at.checks.check(request(), _BUDGET))
        await rest()
        assert at.suite.held("api_calls") == 1
        asking.cancel()
        await rest()
        assert at.suite.held("api_calls") == 0
