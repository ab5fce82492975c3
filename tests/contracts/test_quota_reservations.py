"""The promises of quota's store about reservations once they are made, on memory and on Redis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from kit.errors import NotFound, RequestIdReused
from services.quota.application.ports import Answer, Extended, Freed, InForce, Overrun
from services.quota.domain.checks import Check, Mode
from services.quota.domain.decisions import DenyReason, Outcome
from services.quota.domain.entitlements import Standing
from services.quota.domain.errors import ReservationEnded
from services.quota.domain.limits import ORGANIZATION, Counter, Limit, Scope, ScopeKind, Usage
from services.quota.domain.maxima import QUANTITY_MAX, SETTLE_US, TOMBSTONES_MAX
from services.quota.domain.reservations import Settlement
from services.quota.domain.terms import Terms
from tests.contracts.quota_house import House, rate_limit, user_limit
from tests.unit.quota.samples import AGENTS, CALLS, HOUR_US, MINUTES, agents_limit, minutes_limit, usage_entry

ANN = Scope(ScopeKind.USER, "ann")


def target(
    house: House, quantities: Mapping[str, int | None], name: str = "r1", *, reserve_us: int = HOUR_US, **subject: str
) -> Check:
    return replace(house.asks(quantities, Mode.RESERVE, name, **subject), reserve_us=reserve_us)


async def extend(
    house: House, quantities: Mapping[str, int | None], name: str = "r1", *, reserve_us: int = HOUR_US, **subject: str
) -> Extended:
    return await house.store.extend(target(house, quantities, name, reserve_us=reserve_us, **subject), house.terms)


async def reserve_briefly(house: House, quantities: Mapping[str, int | None], name: str = "r1") -> Answer:
    """For a microsecond: it is due at once."""
    return await house.store.check(target(house, quantities, name, reserve_us=1), house.terms)


async def commit(house: House, name: str = "r1", **actuals: int) -> Settlement:
    return (await house.store.commit(house.terms.organization_id, name, actuals)).settlement


async def release(house: House, name: str = "r1") -> bool:
    return await house.store.release(house.terms.organization_id, name)


async def free(house: House, name: str = "r1", *, head: int = 0) -> Freed:
    return await house.store.free(house.terms.organization_id, [name], head_sequence=head)


async def change(house: House, *limits: Limit, standing: Standing = Standing.ACTIVE) -> None:
    """Puts other limits of the plan in force."""
    before = house.terms.entitlement
    after = replace(before, version=before.version + 1, limits=limits, standing=standing)
    house.terms = Terms(await house.store.put(InForce(after, (await house.position()))), house.terms.own)


# --- extending


async def test_an_extension_holds_the_target_and_the_same_again_holds_no_more(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 20, user_id="ann")
    for _ in range(2):
        extended = await extend(house, {MINUTES: 50}, user_id="ann")
        assert (extended.answer.decision.outcome, extended.restored) == (Outcome.ALLOWED, False)
        assert await house.usage(ORGANIZATION) == await house.usage(ANN) == Usage(0, 50)
    assert (await extend(house, {MINUTES: 30}, user_id="ann")).answer.decision.states[0].held == 50


async def test_what_usage_has_drawn_is_no_part_of_the_target(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 20)
    await house.apply(usage_entry({MINUTES: 15}, reservation_id="r1"))
    await extend(house, {MINUTES: 20})
    assert await house.usage(ORGANIZATION) == Usage(15, 20)


async def test_an_extension_beyond_a_limit_is_denied_and_changes_nothing(house: House) -> None:
    await house.begin(minutes_limit(100))
    first = await house.reserve("r1", 60)
    await house.reserve("r2", 30)
    denied = await extend(house, {MINUTES: 71}, reserve_us=2 * HOUR_US)
    assert (denied.answer.decision.reason, denied.restored) == (DenyReason.LIMIT_REACHED, False)
    assert denied.answer.reservation is None
    assert await house.usage(ORGANIZATION) == Usage(0, 90)
    again = await house.reserve("r1", 60)
    assert (again.decision, again.reservation) == (first.decision, first.reservation)
    assert (await extend(house, {MINUTES: 70})).answer.decision.outcome is Outcome.ALLOWED


async def test_an_extension_that_does_not_grow_is_allowed_whatever_became_of_the_limit(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 60)
    await change(house, minutes_limit(10))
    for quantities in ({MINUTES: 60}, {}):
        extended = await extend(house, quantities, reserve_us=2 * HOUR_US)
        assert extended.answer.decision.outcome is Outcome.ALLOWED
        assert extended.answer.reservation is not None
        assert extended.answer.reservation.expire_us == extended.answer.decided_us + 2 * HOUR_US
    assert (await extend(house, {MINUTES: 61})).answer.decision.is_denied


async def test_without_good_standing_no_extension_is_allowed(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 60)
    await change(house, minutes_limit(100), standing=Standing.SUSPENDED)
    assert (await extend(house, {})).answer.decision.reason is DenyReason.SUSPENDED
    assert await house.usage(ORGANIZATION) == Usage(0, 60)


async def test_an_extension_of_one_that_is_due_keeps_its_hold(house: House) -> None:
    await house.begin(minutes_limit(100))
    await reserve_briefly(house, {MINUTES: 60})
    assert (await free(house, head=2)).waiting_count == 1
    assert not (await extend(house, {})).restored
    await house.apply(usage_entry({MINUTES: 10}, reservation_id="r1"), usage_entry({}))
    assert list(await house.store.due(house.terms.organization_id)) == []
    assert (await free(house, head=2)).freed_count == 0
    assert await house.usage(ORGANIZATION) == Usage(10, 50)


async def test_a_reservation_that_is_not_known_is_made_anew_and_its_check_gets_that_answer(house: House) -> None:
    await house.begin(minutes_limit(100))
    extended = await extend(house, {MINUTES: 60, CALLS: None}, user_id="ann")
    assert (extended.answer.decision.outcome, extended.restored) == (Outcome.ALLOWED, True)
    assert await house.usage(ANN) == Usage(0, 60)
    assert not (await extend(house, {MINUTES: 60}, user_id="ann")).restored
    check = await house.reserve("r1", 80, user_id="ann")
    assert check.reservation is not None
    assert await house.usage(ANN) == Usage(0, 60)


async def test_one_that_is_made_anew_is_decided_as_a_whole(house: House) -> None:
    await house.begin(minutes_limit(100), agents_limit(0))
    denied = await extend(house, {MINUTES: 60, AGENTS: 1})
    assert (denied.answer.decision.reason, denied.restored) == (DenyReason.CONCURRENCY, False)
    assert await house.usage(ORGANIZATION) == Usage(0, 0)
    with pytest.raises(NotFound):
        await extend(house, {})


async def test_one_that_ended_by_time_is_made_anew(house: House) -> None:
    await house.begin(minutes_limit(100))
    await reserve_briefly(house, {MINUTES: 60})
    assert (await free(house)).freed_count == 1
    with pytest.raises(NotFound):
        await extend(house, {})
    assert (await extend(house, {MINUTES: 50})).restored
    assert await house.usage(ORGANIZATION) == Usage(0, 50)


@pytest.mark.parametrize("end", ["final", "committed", "drawn", "released", "releasing", "usage_of_an_unknown_one"])
async def test_one_that_ended_otherwise_cannot_be_extended(house: House, end: str) -> None:
    await house.begin(minutes_limit(100))
    if end != "usage_of_an_unknown_one":
        await house.reserve("r1", 60)
    match end:
        case "committed":
            await commit(house, agent_minutes=60)
        case "drawn":
            await commit(house)
        case "released":
            await release(house)
            await free(house)
        case "releasing":
            await release(house)
        case _:
            await house.apply(usage_entry({MINUTES: 1}, reservation_id="r1", final=True))
    before = await house.usage(ORGANIZATION)
    with pytest.raises(ReservationEnded):
        await extend(house, {MINUTES: 60})
    assert await house.usage(ORGANIZATION) == before


async def test_a_subject_of_other_scopes_is_refused(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 60, user_id="ann")
    for user_id, team_id in (("", ""), ("bob", ""), ("ann", "t")):
        with pytest.raises(RequestIdReused):
            await extend(house, {MINUTES: 60}, user_id=user_id, team_id=team_id)


async def test_growth_counts_within_windows_and_a_repeat_does_not(house: House) -> None:
    await house.begin(own=(rate_limit(5),))
    await house.check({CALLS: 2}, Mode.RESERVE, "r1")
    for _ in range(2):
        await extend(house, {CALLS: 4})
        assert await house.rate() == 4
    denied = await extend(house, {CALLS: 6})
    assert (denied.answer.decision.reason, await house.rate()) == (DenyReason.RATE, 4)


async def test_one_that_is_made_anew_remembers_what_events_drew_of_it_and_its_commit_frees_the_rest(
    house: House,
) -> None:
    await house.begin(minutes_limit(100))
    await house.apply(usage_entry({MINUTES: 20}, reservation_id="r1"))
    assert (await extend(house, {MINUTES: 50})).restored
    assert await house.usage(ORGANIZATION) == Usage(20, 50)
    assert (await commit(house, agent_minutes=25)).held == {MINUTES: 5}
    assert await house.usage(ORGANIZATION) == Usage(20, 5)


async def test_one_that_ended_by_time_and_is_made_anew_remembers_what_events_drew_before_and_since(
    house: House,
) -> None:
    await house.begin(minutes_limit(100))
    await reserve_briefly(house, {MINUTES: 30})
    await house.apply(usage_entry({MINUTES: 10}, reservation_id="r1"))
    assert (await free(house, head=1)).freed_count == 1
    await house.apply(usage_entry({MINUTES: 15}, reservation_id="r1"))
    assert (await extend(house, {MINUTES: 50})).restored
    assert await house.usage(ORGANIZATION) == Usage(25, 50)
    assert await commit(house, agent_minutes=25) == Settlement({}, {}, None)
    assert await house.usage(ORGANIZATION) == Usage(25, 0)


async def test_extensions_without_end_break_no_count(house: House) -> None:
    await house.begin(minutes_limit(None))
    await house.check({MINUTES: QUANTITY_MAX}, Mode.RESERVE, "r1")
    # More than a 64-bit integer counts.
    for _ in range(1_030):
        await house.apply(usage_entry({MINUTES: QUANTITY_MAX}, reservation_id="r1"))
        extended = await extend(house, {MINUTES: QUANTITY_MAX})
        assert not extended.answer.decision.is_denied
    assert await house.usage(ORGANIZATION) == Usage(QUANTITY_MAX, QUANTITY_MAX)
    assert (await commit(house, agent_minutes=QUANTITY_MAX)).overrun == {}


# --- committing


async def test_a_commit_keeps_what_no_event_has_drawn_and_frees_the_rest_at_once(house: House) -> None:
    await house.begin(minutes_limit(100), own=(user_limit(100),))
    await house.check({MINUTES: 60, CALLS: 5}, Mode.RESERVE, "r1", user_id="ann")
    await house.apply(usage_entry({MINUTES: 10}, reservation_id="r1", scopes=(ORGANIZATION, ANN)))
    settlement = await commit(house, agent_minutes=25)
    assert await commit(house, agent_minutes=25) == settlement
    assert (settlement.held, settlement.overrun) == ({MINUTES: 15}, {})
    assert await house.usage(ORGANIZATION) == await house.usage(ANN) == Usage(10, 15)
    assert await house.usage(ORGANIZATION, CALLS) == Usage(0, 0)
    assert settlement.expire_us is not None
    now_us = (await house.store.read(house.terms, [])).instant.now_us
    assert now_us + SETTLE_US - HOUR_US < settlement.expire_us <= now_us + SETTLE_US


async def test_a_committed_reservation_ends_when_events_have_drawn_all(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 60)
    await commit(house, agent_minutes=25)
    await house.apply(usage_entry({MINUTES: 20}, reservation_id="r1"))
    assert await house.usage(ORGANIZATION) == Usage(20, 5)
    assert await house.apply(usage_entry({MINUTES: 5}, reservation_id="r1")) == Overrun(0, 0)
    assert await commit(house, agent_minutes=25) == Settlement({}, {}, None)
    assert (await house.store.read(house.terms, [])).instant.next_expiry_us is None
    assert await house.apply(usage_entry({MINUTES: 1}, reservation_id="r1")) == Overrun(0, 1)
    assert await house.usage(ORGANIZATION) == Usage(26, 0)


async def test_a_committed_reservation_ends_with_its_final_event(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 60)
    await commit(house, agent_minutes=25)
    await house.apply(usage_entry({MINUTES: 20}, reservation_id="r1", final=True))
    assert await house.usage(ORGANIZATION) == Usage(20, 0)


async def test_a_commit_of_what_the_ledger_has_already_ends_the_reservation(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 60)
    await house.apply(usage_entry({MINUTES: 70}, reservation_id="r1"))
    assert await commit(house, agent_minutes=70) == Settlement({}, {MINUTES: 10}, None)
    assert await house.usage(ORGANIZATION) == Usage(70, 0)


async def test_a_commit_says_what_was_used_beyond_the_reservation_and_holds_none_of_it(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 60)
    await extend(house, {MINUTES: 70})
    settlement = await commit(house, agent_minutes=75, api_calls=3)
    assert (settlement.held, settlement.overrun) == ({MINUTES: 70}, {MINUTES: 5, CALLS: 3})


async def test_of_one_that_was_made_anew_no_overrun_is_claimed(house: House) -> None:
    await house.begin(minutes_limit(100))
    await extend(house, {MINUTES: 10})
    settlement = await commit(house, agent_minutes=75)
    assert (settlement.held, settlement.overrun) == ({MINUTES: 10}, {})


async def test_another_commit_only_trims_further(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 60)
    first = await commit(house, agent_minutes=25)
    assert (await commit(house, agent_minutes=50)) == first
    assert (await commit(house, agent_minutes=5)).held == {MINUTES: 5}
    assert await house.usage(ORGANIZATION) == Usage(0, 5)


async def test_what_is_not_known_can_be_neither_committed_nor_released(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.check({CALLS: 1}, Mode.CONSUME, "consumed")
    await house.apply(usage_entry({MINUTES: 5}, reservation_id="tombstone"))
    for name in ("unknown", "consumed", "tombstone"):
        with pytest.raises(NotFound):
            await commit(house, name)
        with pytest.raises(NotFound):
            await release(house, name)


# --- releasing


async def test_a_released_hold_is_free_once_all_usage_recorded_before_is_counted(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 60)
    assert not await release(house)
    assert list(await house.store.due(house.terms.organization_id)) == ["r1"]
    assert (await free(house, head=1)).waiting_count == 1
    assert not await release(house)
    await house.apply(usage_entry({MINUTES: 10}, reservation_id="r1"))
    assert await house.usage(ORGANIZATION) == Usage(10, 50)
    freed = await free(house, head=7)
    assert (freed.freed_count, freed.unmatched_count) == (1, 0)
    assert await release(house)
    assert await house.usage(ORGANIZATION) == Usage(10, 0)


async def test_what_holds_nothing_is_released_at_once(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 60)
    await house.apply(usage_entry({MINUTES: 60}, reservation_id="r1"))
    assert await release(house)
    assert (await house.store.read(house.terms, [])).instant.next_expiry_us is None


async def test_a_committed_reservation_that_is_released_is_not_missed(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 60)
    await commit(house, agent_minutes=25)
    assert not await release(house)
    freed = await free(house)
    assert (freed.freed_count, freed.unmatched_count) == (1, 0)


async def test_a_released_reservation_can_be_committed_and_stays_due(house: House) -> None:
    await house.begin(minutes_limit(100))
    await house.reserve("r1", 60)
    await release(house)
    assert (await commit(house, agent_minutes=25)).held == {MINUTES: 25}
    assert list(await house.store.due(house.terms.organization_id)) == ["r1"]


async def test_every_counter_is_as_before_once_all_reservations_have_ended(house: House) -> None:
    await house.begin(minutes_limit(100), agents_limit(9))
    names = [f"r{number}" for number in range(5)]
    for name in names:
        await house.check({MINUTES: 10, AGENTS: 1}, Mode.RESERVE, name, user_id="ann", team_id="t", task_id=name)
    await house.apply(usage_entry({MINUTES: 3}, reservation_id="r0", final=True))
    await commit(house, "r1")
    await release(house, "r2")
    await extend(house, {MINUTES: 20, AGENTS: 1}, "r3", reserve_us=1, user_id="ann", team_id="t", task_id="r3")
    await commit(house, "r4", agent_minutes=2)
    await house.apply(usage_entry({MINUTES: 2}, reservation_id="r4"))
    await house.store.free(house.terms.organization_id, names, head_sequence=0)
    scopes = [ORGANIZATION, ANN, Scope(ScopeKind.TEAM, "t"), *(Scope(ScopeKind.TASK, name) for name in names)]
    counters = [Counter(scope, meter) for scope in scopes for meter in (MINUTES, AGENTS)]
    usage = (await house.store.read(house.terms, counters)).usage
    assert {usage[counter].held for counter in counters} == {0}


async def test_so_many_unknown_reservations_are_remembered_and_no_more_and_known_ones_are_drawn_all_the_same(
    house: House,
) -> None:
    await house.begin(minutes_limit(None))
    await house.reserve("known", 60)
    unknown = [usage_entry({MINUTES: 5}, reservation_id=f"u{number}") for number in range(TOMBSTONES_MAX + 1)]
    overrun = await house.apply(*unknown, usage_entry({MINUTES: 10}, reservation_id="known"))
    assert overrun == Overrun(0, TOMBSTONES_MAX + 1)
    assert (await house.usage(ORGANIZATION)).held == 50
    await house.reserve("u0", 20)
    assert (await house.usage(ORGANIZATION)).held == 65
    await house.reserve(f"u{TOMBSTONES_MAX}", 20)
    assert (await house.usage(ORGANIZATION)).held == 85
