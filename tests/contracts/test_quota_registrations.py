"""What every store promises of grants that were given while it was away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kit.errors import RequestIdReused
from kit.feed import START
from services.quota.application.ports import Answer, Grant, InForce
from services.quota.domain.checks import Mode, content_digest
from services.quota.domain.decisions import Outcome
from services.quota.domain.entitlements import Standing
from services.quota.domain.limits import ORGANIZATION
from tests.contracts.quota_house import ANN, House, rate_limit, user_limit
from tests.unit.quota.samples import CALLS, HOUR_US, MINUTES, minutes_limit, usage_entry


def granted(house: House, request_id: str, minutes: int, **subject: str) -> Grant:
    check = house.asks({MINUTES: minutes}, Mode.RESERVE, request_id, **subject)
    return Grant(check, content_digest(check))


async def register(house: House, *grants: Grant) -> list[Answer]:
    return list(await house.store.register(grants, house.terms))


async def test_a_grant_is_held_under_every_scope_of_its_subject(house: House) -> None:
    await house.begin(minutes_limit(100), own=(user_limit(50),))
    (made,) = await register(house, granted(house, "g1", 30, user_id="ann"))
    assert [state.held for state in made.decision.states] == [30, 30]
    assert (await house.usage(ORGANIZATION)).held == 30
    assert (await house.usage(ANN)).held == 30


async def test_a_grant_is_held_beyond_the_limit_and_the_next_check_is_denied(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 95)
    await register(house, granted(house, "g1", 30))
    assert (await house.usage(ORGANIZATION)).held == 125
    assert (await house.check({MINUTES: 1})).decision.is_denied


async def test_a_grant_is_held_when_the_subscription_is_suspended_meanwhile(house: House) -> None:
    await house.begin(minutes_limit(100))
    suspended = replace(house.terms.entitlement, standing=Standing.SUSPENDED, version=9)
    house.terms = replace(house.terms, entitlement=await house.store.put(InForce(suspended, START)))
    (made,) = await register(house, granted(house, "g1", 30))
    assert made.decision.outcome is Outcome.ALLOWED
    assert (await house.usage(ORGANIZATION)).held == 30


async def test_a_grant_that_is_registered_twice_is_held_once(house: House) -> None:
    await house.begin(minutes_limit(100))
    grant = granted(house, "g1", 30)
    assert len(await register(house, grant)) == 1
    assert await register(house, grant) == []
    assert await register(house, grant, grant) == []
    assert (await house.usage(ORGANIZATION)).held == 30


async def test_the_same_grant_twice_in_one_call_is_held_once(house: House) -> None:
    await house.begin(minutes_limit(100))
    grant = granted(house, "g1", 30)
    await register(house, grant, grant)
    assert (await house.usage(ORGANIZATION)).held == 30


async def test_a_grant_whose_check_had_run_before_the_store_went_away_is_held_once(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("g1", 30)
    assert await register(house, granted(house, "g1", 30)) == []
    assert (await house.usage(ORGANIZATION)).held == 30


async def test_what_events_drew_before_a_grant_is_registered_is_not_held_again(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.apply(usage_entry({MINUTES: 12}, reservation_id="g1"))
    await register(house, granted(house, "g1", 30))
    usage = await house.usage(ORGANIZATION)
    assert (usage.used, usage.held) == (12, 18)


async def test_what_events_drew_of_a_known_reservation_is_no_room_for_its_grant(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("g1", 30)
    await house.apply(usage_entry({MINUTES: 12}, reservation_id="g1"))
    await register(house, granted(house, "g1", 30))
    usage = await house.usage(ORGANIZATION)
    assert (usage.used, usage.held) == (12, 18)


async def test_a_grant_whose_final_event_came_first_holds_nothing(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.apply(usage_entry({MINUTES: 12}, reservation_id="g1", final=True))
    await register(house, granted(house, "g1", 30))
    usage = await house.usage(ORGANIZATION)
    assert (usage.used, usage.held) == (12, 0)


async def test_a_reservation_that_was_released_is_not_held_again_by_its_grant(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("g1", 30)
    await house.store.commit(house.terms.organization_id, "g1", {})
    await register(house, granted(house, "g1", 30))
    assert (await house.usage(ORGANIZATION)).held == 0


async def test_a_retry_of_what_was_granted_is_allowed_as_it_was(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 100)
    grant = granted(house, "g1", 30)
    await register(house, grant)
    answer = await house.store.check(grant.check, house.terms)
    assert answer.decision.outcome is Outcome.ALLOWED
    assert answer.reservation is not None
    assert (await house.usage(ORGANIZATION)).held == 130


async def test_other_content_under_the_id_of_a_grant_is_refused(house: House) -> None:
    await house.begin(minutes_limit(100))
    await register(house, granted(house, "g1", 30))
    with pytest.raises(RequestIdReused):
        await house.reserve("g1", 31)


async def test_a_grant_admits_nothing_to_the_window_of_now(house: House) -> None:
    await house.begin(own=(rate_limit(10),))
    check = house.asks({CALLS: 7}, Mode.RESERVE, "g1")
    await register(house, Grant(check, content_digest(check)))
    assert await house.rate() == 0


async def test_a_grant_prolongs_a_reservation_that_ends_sooner_and_never_shortens_one(house: House) -> None:
    await house.begin(minutes_limit(100))
    first = await house.reserve("g1", 30)
    assert first.reservation is not None
    grant = granted(house, "g1", 30)
    await register(house, replace(grant, check=replace(grant.check, reserve_us=2 * HOUR_US)))
    longer = await house.reserve("g1", 30)
    assert longer.reservation is not None
    assert longer.reservation.expire_us - first.reservation.expire_us > HOUR_US // 2
    await register(house, replace(grant, check=replace(grant.check, reserve_us=1_000_000)))
    again = await house.reserve("g1", 30)
    assert again.reservation == longer.reservation


async def test_a_grant_of_what_ended_by_time_is_held_anew(house: House) -> None:
    await house.begin(minutes_limit(100))
    organization_id = house.terms.organization_id
    brief = replace(house.asks({MINUTES: 30}, Mode.RESERVE, "g1"), reserve_us=1)
    await house.store.check(brief, house.terms)
    assert (await house.store.free(organization_id, ["g1"], head_sequence=0)).freed_count == 1
    await register(house, granted(house, "g1", 30))
    assert (await house.usage(ORGANIZATION)).held == 30


async def test_a_grant_that_holds_nothing_but_time_makes_no_reservation(house: House) -> None:
    await house.begin(minutes_limit(100))
    assert await register(house, Grant(house.asks({}, Mode.RESERVE, "g1"), "")) == []
    assert await register(house) == []


async def test_a_grant_beyond_what_a_known_reservation_was_granted_is_held_and_once(house: House) -> None:
    await house.begin(minutes_limit(100), own=(user_limit(90),))
    await house.reserve("g1", 30, user_id="ann")
    (grown,) = await register(house, granted(house, "g1", 50, user_id="ann"))
    assert [state.held for state in grown.decision.states] == [50, 50]
    assert grown.reservation is not None
    assert await register(house, granted(house, "g1", 50, user_id="ann")) == []
    assert await register(house, granted(house, "g1", 40, user_id="ann")) == []
    assert (await house.usage(ORGANIZATION)).held == (await house.usage(ANN)).held == 50
    assert (await house.check({MINUTES: 51})).decision.is_denied


async def test_two_grants_of_one_extension_by_two_processes_are_held_once(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("g1", 30)
    first, second = (replace(granted(house, "g1", minutes), digest="") for minutes in (45, 50))
    await register(house, second)
    await register(house, first)
    assert (await house.usage(ORGANIZATION)).held == 50


async def test_a_grant_grows_what_was_extended_by_what_is_beyond_the_last_target_whatever_events_drew(
    house: House,
) -> None:
    await house.begin(minutes_limit(1_000))
    first = house.asks({MINUTES: 30}, Mode.RESERVE, "g1")
    await house.store.check(first, house.terms)
    await house.apply(usage_entry({MINUTES: 12}, reservation_id="g1"))
    await house.store.extend(house.asks({MINUTES: 20}, Mode.RESERVE, "g1"), house.terms)
    await house.apply(usage_entry({MINUTES: 5}, reservation_id="g1"))
    await register(house, granted(house, "g1", 50))
    usage = await house.usage(ORGANIZATION)
    assert (usage.used, usage.held) == (17, 45)
    settlement = (await house.store.commit(house.terms.organization_id, "g1", {MINUTES: 70})).settlement
    assert (settlement.held, settlement.overrun) == ({MINUTES: 45}, {MINUTES: 8})


async def test_a_target_that_shrank_is_what_a_later_grant_goes_beyond(house: House) -> None:
    await house.begin(minutes_limit(1_000))
    await house.reserve("g1", 30)
    await house.apply(usage_entry({MINUTES: 12}, reservation_id="g1"))
    await house.store.extend(house.asks({MINUTES: 18}, Mode.RESERVE, "g1"), house.terms)
    await register(house, granted(house, "g1", 28))
    assert (await house.usage(ORGANIZATION)).held == 28


async def test_a_grant_by_another_subject_grows_no_reservation(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("g1", 30, user_id="ann")
    assert await register(house, granted(house, "g1", 50, user_id="bob")) == []
    assert (await house.usage(ORGANIZATION)).held == 30


async def test_a_grant_for_a_committed_reservation_holds_no_more(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("g1", 30)
    await house.store.commit(house.terms.organization_id, "g1", {MINUTES: 20})
    await register(house, granted(house, "g1", 50))
    assert (await house.usage(ORGANIZATION)).held == 20
