"""The promises of quota's store about levels, windows, consumption and many checks at once, on memory and on Redis."""

from __future__ import annotations

import asyncio

import pytest

from kit.errors import RequestIdReused
from kit.feed import START
from services.quota.application.ports import Answer, CountersMissing, TermsOutdated
from services.quota.domain.checks import Mode
from services.quota.domain.decisions import DenyReason, Outcome, Remedy
from services.quota.domain.limits import (
    ORGANIZATION,
    LimitKind,
    Scope,
    ScopeKind,
    Usage,
)
from services.quota.domain.terms import OwnLimits, Terms
from tests.contracts.quota_house import ANN, BOB, DAY, SECOND, SLIDING_DAY, House, rate_limit, user_limit
from tests.unit.quota.samples import (
    AGENTS,
    CALLS,
    MINUTES,
    minutes_limit,
    usage_entry,
)

# --- the tree


async def test_a_check_passes_only_if_every_level_allows_it_and_holds_on_all_or_none(house: House) -> None:
    await house.begin(minutes_limit(100), own=(user_limit(30),))
    allowed = await house.reserve("r1", 25, user_id="ann", project_id="p")
    assert allowed.decision.outcome is Outcome.ALLOWED
    denied = await house.reserve("r2", 6, user_id="ann", project_id="p")
    assert denied.decision.reason is DenyReason.LIMIT_REACHED
    assert [(state.limit.limit_id, state.counter.scope, state.remaining) for state in denied.decision.states] == [
        ("user-agent_minutes-None", ANN, 5),
        ("plan:agent_minutes", ORGANIZATION, 75),
    ]
    for scope in (ORGANIZATION, ANN, Scope(ScopeKind.PROJECT, "p")):
        assert await house.usage(scope) == Usage(0, 25)


async def test_a_limit_for_each_member_counts_each_by_itself(house: House) -> None:
    await house.begin(own=(user_limit(30),))
    assert not (await house.reserve("r1", 30, user_id="ann")).decision.is_denied
    assert not (await house.reserve("r2", 30, user_id="bob")).decision.is_denied
    assert (await house.reserve("r3", 1, user_id="bob")).decision.is_denied
    assert not (await house.reserve("r4", 1_000)).decision.is_denied


async def test_a_limit_of_one_member_leaves_the_others_alone(house: House) -> None:
    await house.begin(own=(user_limit(30, user="ann"),))
    assert (await house.reserve("r1", 31, user_id="ann")).decision.is_denied
    assert not (await house.reserve("r2", 31, user_id="bob")).decision.is_denied


async def test_usage_counts_at_its_own_levels_and_draws_at_those_of_its_reservation(house: House) -> None:
    await house.begin(own=(user_limit(100),))
    await house.reserve("r1", 50, user_id="ann")
    await house.apply(usage_entry({MINUTES: 20}, reservation_id="r1", scopes=(ORGANIZATION, BOB)))
    assert await house.usage(ANN) == Usage(0, 30)
    assert await house.usage(BOB) == Usage(20, 0)
    assert await house.usage(ORGANIZATION) == Usage(20, 30)
    await house.apply(usage_entry({}, reservation_id="r1", final=True))
    for scope in (ANN, ORGANIZATION):
        assert (await house.usage(scope)).held == 0


async def test_a_limit_that_looks_at_a_level_which_was_not_counted_finds_no_counters(house: House) -> None:
    await house.begin(minutes_limit(100))
    mine = OwnLimits(organization_id=house.terms.organization_id, sequence=2, commit_id="c2", limits=(user_limit(30),))
    await house.store.put_limits(mine)
    with pytest.raises(TermsOutdated):
        await house.reserve("r1", 1, user_id="ann")
    house.terms = Terms(house.terms.entitlement, mine)
    with pytest.raises(CountersMissing):
        await house.reserve("r1", 1, user_id="ann")
    # Who is not of that level is not concerned.
    assert not (await house.reserve("r2", 1)).decision.is_denied


async def test_a_hold_is_seen_by_a_limit_that_comes_later(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 20, user_id="ann")
    mine = OwnLimits(organization_id=house.terms.organization_id, sequence=2, commit_id="c2", limits=(user_limit(30),))
    state = await house.store.state(house.terms.organization_id)
    house.terms = Terms(house.terms.entitlement, await house.store.put_limits(mine))
    assert await house.store.reset(
        house.terms.entitlement, expected=state, position=START, tracked=house.terms.tracked, used={}
    )
    assert (await house.reserve("r2", 11, user_id="ann")).decision.is_denied
    assert not (await house.reserve("r3", 10, user_id="ann")).decision.is_denied


# --- windows and consumption


async def test_consumption_counts_at_once_and_holds_nothing(house: House) -> None:
    await house.begin(minutes_limit(100), own=(rate_limit(3),))
    for expected in (1, 2, 3):
        answer = await house.check({CALLS: 1, MINUTES: 5}, Mode.CONSUME)
        assert answer.decision.outcome is Outcome.ALLOWED
        assert [state.used for state in answer.decision.states if state.limit.window] == [expected]
    denied = await house.check({CALLS: 1, MINUTES: 5}, Mode.CONSUME)
    assert denied.decision.reason is DenyReason.RATE
    assert denied.decision.remedy is Remedy.ROOM
    assert denied.decision.room_us is not None
    assert denied.decided_us < denied.decision.room_us <= denied.decided_us + DAY.length_us
    assert await house.rate() == 3
    assert await house.usage(ORGANIZATION) == Usage(0, 0)


async def test_a_consumption_that_is_denied_elsewhere_counts_nowhere(house: House) -> None:
    await house.begin(minutes_limit(0), own=(rate_limit(3),))
    for _ in range(5):
        assert (await house.check({CALLS: 1, MINUTES: 1}, Mode.CONSUME)).decision.is_denied
    assert await house.rate() == 0


async def test_a_repeated_consumption_is_counted_once(house: House) -> None:
    await house.begin(own=(rate_limit(3),))
    first = await house.check({CALLS: 2}, Mode.CONSUME, "c1")
    again = await house.check({CALLS: 2}, Mode.CONSUME, "c1")
    assert (again.decision, again.decided_us) == (first.decision, first.decided_us)
    assert await house.rate() == 2
    with pytest.raises(RequestIdReused):
        await house.check({CALLS: 1}, Mode.CONSUME, "c1")
    with pytest.raises(RequestIdReused):
        await house.check({CALLS: 2}, Mode.RESERVE, "c1")


async def test_a_reservation_counts_within_windows_and_its_end_takes_nothing_back(house: House) -> None:
    await house.begin(own=(rate_limit(5), rate_limit(5, SLIDING_DAY, name="sliding")))
    await house.check({CALLS: 4}, Mode.RESERVE, "r1")
    await house.apply(usage_entry({CALLS: 1}, reservation_id="r1", final=True))
    assert (await house.rate(), await house.rate(SLIDING_DAY)) == (4, 4)
    assert (await house.check({CALLS: 2}, Mode.RESERVE, "r2")).decision.reason is DenyReason.RATE


async def test_two_limits_of_one_window_count_it_once(house: House) -> None:
    await house.begin(own=(rate_limit(5), rate_limit(50, name="other")))
    await house.check({CALLS: 4}, Mode.CONSUME)
    assert await house.rate() == 4


async def test_a_fixed_window_begins_anew(house: House) -> None:
    await house.begin(own=(rate_limit(2, SECOND),))
    answers = [await house.check({CALLS: 2}, Mode.CONSUME) for _ in range(2)]
    if answers[1].decision.is_denied:  # else the second turned between the two
        assert answers[1].decision.room_us is not None
        await asyncio.sleep((answers[1].decision.room_us - answers[1].decided_us) / 1_000_000 + 0.01)
        assert not (await house.check({CALLS: 2}, Mode.CONSUME)).decision.is_denied
    assert await house.rate(SECOND) <= 2


async def test_a_shadow_limit_reports_what_it_would_have_said_and_denies_nothing(house: House) -> None:
    await house.begin(own=(rate_limit(1, shadow=True),))
    answers = [await house.check({CALLS: 1}, Mode.CONSUME) for _ in range(3)]
    assert [answer.decision.outcome for answer in answers] == [Outcome.ALLOWED] * 3
    (state,) = answers[-1].decision.states
    assert (state.outcome, state.used) == (Outcome.DENIED, 3)


# --- many at once


async def test_checks_of_one_call_see_what_those_before_them_hold(house: House) -> None:
    await house.begin(minutes_limit(10), own=(rate_limit(2),))
    checks = [
        house.asks({MINUTES: 6}, Mode.RESERVE, "r1"),
        house.asks({MINUTES: 6}, Mode.RESERVE, "r2"),
        house.asks({MINUTES: 4}, Mode.RESERVE, "r3", user_id="ann"),
        house.asks({MINUTES: 1}),
        house.asks({CALLS: 2}, Mode.CONSUME),
        house.asks({CALLS: 1}, Mode.CONSUME),
    ]
    answers = await house.store.check_many(checks, house.terms)
    denied = [not isinstance(answer, RequestIdReused) and answer.decision.is_denied for answer in answers]
    assert denied == [False, True, False, True, False, True]
    assert await house.usage(ORGANIZATION) == Usage(0, 10)
    assert await house.usage(ANN) == Usage(0, 4)


async def test_one_id_twice_in_one_call_is_held_once_and_refused_with_other_content(house: House) -> None:
    await house.begin(minutes_limit(100))
    same = house.asks({MINUTES: 6}, Mode.RESERVE, "r1")
    other = house.asks({MINUTES: 7}, Mode.RESERVE, "r1")
    for _ in range(2):
        first, again, refused = await house.store.check_many([same, same, other], house.terms)
        assert isinstance(first, Answer)
        assert isinstance(again, Answer)
        assert again.decision == first.decision
        assert again.reservation == first.reservation
        assert isinstance(refused, RequestIdReused)
    assert await house.usage(ORGANIZATION) == Usage(0, 6)


# --- usage before its reservation


async def test_usage_before_its_reservation_is_registered_is_not_held_again(house: House) -> None:
    await house.begin(minutes_limit(100), own=(user_limit(100, meter=AGENTS, kind=LimitKind.CONCURRENCY),))
    await house.apply(usage_entry({MINUTES: 20}, reservation_id="r1"))
    await house.reserve("r1", 50, user_id="ann")
    assert await house.usage(ORGANIZATION) == Usage(20, 30)
    await house.apply(usage_entry({MINUTES: 5}, reservation_id="r2", final=True))
    await house.reserve("r2", 50)
    assert await house.usage(ORGANIZATION) == Usage(25, 30)
    await house.apply(usage_entry({MINUTES: 40}, reservation_id="r1", final=True))
    assert await house.usage(ORGANIZATION) == Usage(65, 0)
