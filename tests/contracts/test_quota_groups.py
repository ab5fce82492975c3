"""Checks of several organizations in one call, on memory, Redis and a cluster: each group as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from kit.errors import RequestIdReused
from kit.feed import START
from services.quota.application.ports import Answer, CheckGroup, CountersMissing, InForce, TermsOutdated
from services.quota.domain.checks import Mode
from services.quota.domain.limits import ORGANIZATION
from services.quota.domain.terms import OwnLimits, Terms
from tests.contracts.quota_house import House
from tests.unit.quota.samples import CALLS, MINUTES, entitlement, minutes_limit, new_organization_id


def beside(house: House) -> House:
    """Another organization of the same store."""
    organization_id = new_organization_id()
    nothing = OwnLimits(organization_id=organization_id, sequence=0, commit_id="", limits=())
    return House(house.store, Terms(entitlement(organization_id), nothing), house.commands)


@pytest.fixture
async def houses(house: House) -> Sequence[House]:
    found = [house, beside(house), beside(house)]
    for each in found:
        await each.begin(minutes_limit(100))
    return found


def reserving(house: House, minutes: int, *names: str) -> CheckGroup:
    return CheckGroup([house.asks({MINUTES: minutes}, Mode.RESERVE, name) for name in names], house.terms)


def outcomes(group: Sequence[Answer | RequestIdReused] | Exception) -> list[bool | str]:
    if isinstance(group, Exception):
        return [type(group).__name__]
    return [each.decision.is_denied if isinstance(each, Answer) else "reused" for each in group]


async def test_each_group_is_decided_in_order_by_its_own_counters(houses: Sequence[House]) -> None:
    groups = [reserving(house, quantity, "r1", "r2") for house, quantity in zip(houses, (40, 60, 101), strict=True)]
    assert [outcomes(each) for each in await houses[0].store.check_groups(groups)] == [
        [False, False],
        [False, True],
        [True, True],
    ]
    assert [(await house.usage(ORGANIZATION)).held for house in houses] == [80, 60, 0]


async def test_a_retry_within_a_group_gets_its_first_answer_and_another_content_is_refused(
    houses: Sequence[House],
) -> None:
    await houses[1].reserve("r1", 10)
    groups = [reserving(houses[0], 10, "r1"), reserving(houses[1], 10, "r1"), reserving(houses[2], 10, "r1")]
    first = await houses[0].store.check_groups(groups)
    again = await houses[0].store.check_groups([*groups[:2], reserving(houses[2], 11, "r1")])
    assert [outcomes(each) for each in first] == [[False], [False], [False]]
    assert [outcomes(each) for each in again] == [[False], [False], ["reused"]]
    assert [(await house.usage(ORGANIZATION)).held for house in houses] == [10, 10, 10]


async def test_what_is_wrong_with_one_group_is_its_outcome_alone(houses: Sequence[House]) -> None:
    elsewhere = beside(houses[0])
    refused = replace(houses[1].terms, entitlement=replace(houses[1].terms.entitlement, version=7))
    groups = [
        reserving(houses[0], 10, "r1"),
        CheckGroup([houses[1].asks({MINUTES: 1})], refused),
        CheckGroup([elsewhere.asks({MINUTES: 1})], elsewhere.terms),
        reserving(houses[2], 10, "r1"),
    ]
    found = await houses[0].store.check_groups(groups)
    assert [outcomes(each) for each in found] == [[False], ["TermsOutdated"], ["TermsOutdated"], [False]]
    assert isinstance(found[1], TermsOutdated)
    assert [(await house.usage(ORGANIZATION)).held for house in houses] == [10, 0, 10]


async def test_counters_that_are_missing_are_missing_for_their_group_alone(houses: Sequence[House]) -> None:
    lost = beside(houses[0])
    lost.terms = Terms(
        await lost.store.put(InForce(lost.terms.entitlement, START)), await lost.store.put_limits(lost.terms.own)
    )
    found = await houses[0].store.check_groups([reserving(lost, 1, "r1"), reserving(houses[0], 1, "r1")])
    assert isinstance(found[0], CountersMissing)
    assert outcomes(found[1]) == [False]


async def test_a_meter_that_no_limit_is_of_is_held_in_each_group(houses: Sequence[House]) -> None:
    groups = [CheckGroup([house.asks({CALLS: 5}, Mode.RESERVE, "r1")], house.terms) for house in houses]
    assert [outcomes(each) for each in await houses[0].store.check_groups(groups)] == [[False]] * 3
    assert [(await house.usage(ORGANIZATION, CALLS)).held for house in houses] == [5, 5, 5]
