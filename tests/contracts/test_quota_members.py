"""Whose counters there are, on memory and on Redis."""

from __future__ import annotations

from kit.feed import START
from services.quota.application.ports import Ranking
from services.quota.domain.limits import Counter, LevelMeter, Scope, ScopeKind
from tests.contracts.quota_house import House, user_limit
from tests.unit.quota.samples import AGENTS, CALLS, MINUTES, counter

USERS = LevelMeter(ScopeKind.USER, MINUTES)


async def used(house: House, **quantities: int) -> None:
    """Sets what users used."""
    state = await house.store.state(house.terms.organization_id)
    totals = {Counter(Scope(ScopeKind.USER, name), MINUTES): quantity for name, quantity in quantities.items()}
    other = {counter(MINUTES): 1_000, Counter(Scope(ScopeKind.TEAM, "t"), MINUTES): 500}
    done = await house.store.reset(
        house.terms.entitlement,
        expected=state,
        position=START,
        tracked=house.terms.tracked,
        used=totals | other,
        force=True,
    )
    assert done


async def ranked(house: House, *rankings: Ranking, at_most: int = 10) -> list[list[str]]:
    terms = house.terms
    found = await house.store.rank(terms.organization_id, terms.entitlement.period, rankings, at_most=at_most)
    return [list(found[ranking]) for ranking in rankings]


async def test_members_are_ranked_by_what_they_used_and_hold(house: House) -> None:
    await house.begin(own=(user_limit(100),))
    await used(house, ann=5, bob=7, zoe=7, eve=0)
    await house.reserve("r1", 4, user_id="ann")
    await house.reserve("r2", 1, user_id="dan")
    assert await ranked(house, Ranking(USERS)) == [["ann", "bob", "zoe", "dan"]]
    assert await ranked(house, Ranking(USERS), at_most=2) == [["ann", "bob"]]


async def test_members_of_a_concurrency_limit_are_ranked_by_what_they_hold(house: House) -> None:
    await house.begin(own=(user_limit(1_000),))
    await used(house, ann=500)
    await house.reserve("r1", 1, user_id="ann")
    await house.reserve("r2", 2, user_id="bob")
    assert await ranked(house, Ranking(USERS, held_alone=True), Ranking(USERS)) == [["bob", "ann"], ["ann", "bob"]]


async def test_levels_and_meters_are_told_apart(house: House) -> None:
    await house.begin(own=(user_limit(100),))
    await used(house, ann=5)
    teams, calls = LevelMeter(ScopeKind.TEAM, MINUTES), LevelMeter(ScopeKind.USER, CALLS)
    assert await ranked(house, Ranking(USERS), Ranking(teams), Ranking(calls)) == [["ann"], ["t"], []]


async def test_more_members_than_one_look_finds_are_found(house: House) -> None:
    await house.begin(own=(user_limit(100),))
    await used(house, **{f"user-{number}": number + 1 for number in range(3_000)})
    assert await ranked(house, Ranking(USERS), at_most=3) == [["user-2999", "user-2998", "user-2997"]]


async def test_without_counters_nobody_is_found(house: House) -> None:
    assert await ranked(house, Ranking(LevelMeter(ScopeKind.USER, AGENTS))) == [[]]
