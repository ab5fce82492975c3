"""The promises of quota's store, on memory and on Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest

from kit.clock import SystemClock
from kit.errors import RequestIdReused
from kit.feed import START, Position
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from services.quota.adapters.memory import MemoryCounters
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import (
    Answer,
    Counters,
    CountersMissing,
    CounterState,
    CounterUpkeep,
    Expiries,
    InForce,
    Overrun,
    TermsOutdated,
    TermsShelf,
)
from services.quota.domain.checks import Check
from services.quota.domain.decisions import DenyReason, Outcome
from services.quota.domain.entitlements import Entitlement, Standing
from services.quota.domain.limits import Limit, Usage
from services.quota.domain.maxima import COUNTER_MAX, QUANTITY_MAX
from services.quota.domain.usage import UsageEntry, tally
from tests.unit.quota.samples import (
    AGENTS,
    CALLS,
    MINUTES,
    agents_limit,
    counter,
    decide_check,
    entitlement,
    minutes_limit,
    new_organization_id,
    own_limits,
    period_around,
    reserve_check,
    terms,
    usage_entry,
)


class Store(Counters, CounterUpkeep, Expiries, TermsShelf, Protocol):
    """All four ports over one store."""


@dataclass
class Account:
    """An organization that no other test uses, and what is in force for it."""

    store: Store
    organization_id: str
    entitled: Entitlement

    async def begin(self, *limits: Limit, used: Mapping[str, int] | None = None, position: Position = START) -> None:
        """Puts limits in force and sets what was used."""
        await self.store.put_limits(own_limits(self.organization_id))
        self.entitled = await self.store.put(InForce(entitlement(self.organization_id, *limits), START))
        counts = {counter(meter): quantity for meter, quantity in (used or {}).items()}
        assert await self.store.reset(self.entitled, expected=None, position=position, used=counts)

    async def change(self, changed: Entitlement) -> None:
        self.entitled = await self.store.put(InForce(changed, START))
        assert self.entitled == changed

    async def check(self, check: Check) -> Answer:
        return await self.store.check(check, terms(self.entitled))

    async def reserve(self, request_id: str = "r1", *, reserve_us: int = 3_600_000_000, **quantities: int) -> Answer:
        check = reserve_check(self.organization_id, quantities, request_id=request_id, reserve_us=reserve_us)
        return await self.check(check)

    async def usage(self, meter: str = MINUTES) -> Usage:
        readings = await self.store.read(terms(self.entitled), [counter(meter)])
        return readings.usage.get(counter(meter), Usage())

    async def state(self) -> CounterState:
        state = await self.store.state(self.organization_id)
        assert state is not None
        return state

    async def apply(self, *entries: UsageEntry, to: int | None = None) -> Overrun | None:
        state = await self.state()
        position = Position(to or state.position.sequence + len(entries), "commit")
        return await self.store.apply(
            self.organization_id, tally(entries, state.period), expected=state, position=position
        )


@pytest.fixture(params=["memory", "redis"])
async def account(request: pytest.FixtureRequest, redis_server: EmbeddedRedis) -> AsyncIterator[Account]:
    organization_id = new_organization_id()
    if request.param == "memory":
        yield Account(MemoryCounters(SystemClock()), organization_id, entitlement(organization_id))
        return
    client = connect_redis(redis_server.url, timeout_seconds=5)
    yield Account(RedisCounters(client, command_seconds=5), organization_id, entitlement(organization_id))
    await client.aclose()


# --- deciding


async def test_used_and_held_and_asked_may_reach_the_hard_limit_and_not_pass_it(account: Account) -> None:
    await account.begin(minutes_limit(100), used={MINUTES: 40})
    await account.reserve("r1", agent_minutes=50)
    fits = await account.check(decide_check(account.organization_id, {MINUTES: 10}))
    exceeds = await account.check(decide_check(account.organization_id, {MINUTES: 11}))
    assert fits.decision.outcome is Outcome.ALLOWED
    assert exceeds.decision.outcome is Outcome.DENIED
    assert exceeds.decision.reason is DenyReason.LIMIT_REACHED
    state = exceeds.decision.states[0]
    assert (state.used, state.held, state.remaining) == (40, 50, 10)


async def test_a_denied_check_leaves_every_counter_unchanged(account: Account) -> None:
    await account.begin(minutes_limit(100), agents_limit(1), used={MINUTES: 99})
    await account.reserve("r1", concurrent_agents=1)
    before = [await account.usage(meter) for meter in (MINUTES, AGENTS, CALLS)]
    state = await account.state()
    for _ in range(3):
        answer = await account.reserve("r2", agent_minutes=1, concurrent_agents=1, api_calls=5)
        assert answer.decision.outcome is Outcome.DENIED
        assert answer.reservation is None
    assert [await account.usage(meter) for meter in (MINUTES, AGENTS, CALLS)] == before
    assert await account.state() == state


async def test_a_denied_request_id_is_decided_anew(account: Account) -> None:
    await account.begin(minutes_limit(100), used={MINUTES: 100})
    assert (await account.reserve("r1", agent_minutes=1)).decision.is_denied
    await account.change(
        entitlement(account.organization_id, minutes_limit(200), version=2, period=account.entitled.period)
    )
    assert not (await account.reserve("r1", agent_minutes=1)).decision.is_denied


async def test_a_check_without_reservation_moves_nothing(account: Account) -> None:
    await account.begin(minutes_limit(100))
    answer = await account.check(decide_check(account.organization_id, {MINUTES: 60}, request_id="d1"))
    assert answer.reservation is None
    assert answer.decision.states[0].held == 0
    assert await account.usage() == Usage(0, 0)


async def test_a_gate_is_allowed_while_anything_is_left_and_holds_nothing(account: Account) -> None:
    await account.begin(minutes_limit(100), used={MINUTES: 99})
    gate = reserve_check(account.organization_id, {MINUTES: None})
    assert (await account.check(gate)).decision.outcome is Outcome.ALLOWED
    assert await account.usage() == Usage(99, 0)
    await account.reserve("r2", agent_minutes=1)
    closed = await account.check(decide_check(account.organization_id, {MINUTES: None}))
    assert closed.decision.outcome is Outcome.DENIED


async def test_above_the_limit_and_within_the_grace_band_is_allowed_in_grace(account: Account) -> None:
    await account.begin(minutes_limit(105, grace_percent=10), used={MINUTES: 100})
    outcomes = [
        (await account.check(decide_check(account.organization_id, {MINUTES: quantity}))).decision.outcome
        for quantity in (5, 6, 15, 16)
    ]
    assert outcomes == [Outcome.ALLOWED, Outcome.ALLOWED_IN_GRACE, Outcome.ALLOWED_IN_GRACE, Outcome.DENIED]


async def test_a_concurrency_limit_counts_what_is_held_and_not_what_was_used(account: Account) -> None:
    await account.begin(agents_limit(2), used={AGENTS: 50})
    answers = [await account.reserve(f"r{index}", concurrent_agents=1) for index in range(3)]
    assert [answer.decision.is_denied for answer in answers] == [False, False, True]
    assert answers[2].decision.reason is DenyReason.CONCURRENCY
    assert answers[2].decision.states[0].used == 0


async def test_a_meter_without_a_limit_is_allowed_and_still_held(account: Account) -> None:
    await account.begin(minutes_limit(100))
    answer = await account.reserve("r1", api_calls=7)
    assert answer.decision.outcome is Outcome.ALLOWED
    assert answer.decision.states == ()
    assert await account.usage(CALLS) == Usage(0, 7)


async def test_an_unlimited_counter_stays_at_its_maximum(account: Account) -> None:
    await account.begin(minutes_limit(None), used={MINUTES: QUANTITY_MAX})
    for request_id in ("r1", "r2"):
        answer = await account.reserve(request_id, agent_minutes=QUANTITY_MAX)
        assert answer.decision.outcome is Outcome.ALLOWED
        assert answer.decision.states[0].remaining is None
    await account.apply(usage_entry({MINUTES: QUANTITY_MAX}))
    assert await account.usage() == Usage(COUNTER_MAX, COUNTER_MAX)
    await account.apply(
        usage_entry({}, reservation_id="r1", final=True), usage_entry({}, reservation_id="r2", final=True)
    )
    assert await account.usage() == Usage(COUNTER_MAX, 0)


@pytest.mark.parametrize(
    ("standing", "reason"),
    [(Standing.SUSPENDED, DenyReason.SUSPENDED), (Standing.NO_PLAN, DenyReason.NO_PLAN)],
    ids=["suspended", "no_plan"],
)
async def test_without_good_standing_everything_is_denied_and_nothing_held(
    account: Account, standing: Standing, reason: DenyReason
) -> None:
    await account.begin(minutes_limit(100))
    await account.reserve("earlier", agent_minutes=1)
    await account.change(replace(account.entitled, version=2, standing=standing))
    answer = await account.reserve("r1", agent_minutes=1)
    assert (answer.decision.outcome, answer.decision.reason) == (Outcome.DENIED, reason)
    assert await account.usage() == Usage(0, 1)
    assert not (await account.reserve("earlier", agent_minutes=1)).decision.is_denied


# --- reservations


async def test_a_retried_reservation_gets_its_first_answer_and_is_held_once(account: Account) -> None:
    await account.begin(minutes_limit(100, grace_percent=10), used={MINUTES: 70})
    first = await account.reserve("r1", agent_minutes=35)
    assert first.decision.outcome is Outcome.ALLOWED_IN_GRACE
    await account.reserve("r2", agent_minutes=5)
    await account.apply(usage_entry({MINUTES: 10}))
    await account.change(
        entitlement(account.organization_id, minutes_limit(1), version=2, period=account.entitled.period)
    )
    again = await account.reserve("r1", agent_minutes=35)
    assert replace(again, instant=first.instant) == first
    assert (await account.usage()).held == 40


async def test_a_retry_after_the_reservation_ended_still_gets_the_first_answer(account: Account) -> None:
    await account.begin(minutes_limit(100))
    first = await account.reserve("r1", agent_minutes=60)
    await account.apply(usage_entry({MINUTES: 60}, reservation_id="r1", final=True))
    again = await account.reserve("r1", agent_minutes=60)
    assert replace(again, instant=first.instant) == first
    assert await account.usage() == Usage(60, 0)


async def test_a_request_id_with_other_content_is_refused(account: Account) -> None:
    await account.begin(minutes_limit(100))
    await account.reserve("r1", agent_minutes=60)
    with pytest.raises(RequestIdReused):
        await account.reserve("r1", agent_minutes=61)
    with pytest.raises(RequestIdReused):
        await account.reserve("r1", agent_minutes=60, reserve_us=5_000_000)
    assert await account.usage() == Usage(0, 60)


async def test_usage_draws_its_reservation_down_and_what_is_beyond_counts_too(account: Account) -> None:
    await account.begin(minutes_limit(100))
    await account.reserve("r1", agent_minutes=60)
    assert await account.apply(usage_entry({MINUTES: 25}, reservation_id="r1")) == Overrun(0, 0)
    assert await account.usage() == Usage(25, 35)
    assert await account.apply(usage_entry({MINUTES: 50}, reservation_id="r1")) == Overrun(1, 0)
    assert await account.usage() == Usage(75, 0)


async def test_final_usage_frees_what_is_left_of_every_meter(account: Account) -> None:
    await account.begin(minutes_limit(100), agents_limit(1))
    await account.reserve("r1", agent_minutes=60, concurrent_agents=1)
    await account.reserve("r2", agent_minutes=5)
    await account.apply(usage_entry({MINUTES: 10}, reservation_id="r1", final=True))
    assert await account.usage() == Usage(10, 5)
    assert await account.usage(AGENTS) == Usage(0, 0)


async def test_usage_of_a_meter_that_was_not_reserved_draws_nothing(account: Account) -> None:
    await account.begin(minutes_limit(100))
    await account.reserve("r1", agent_minutes=60)
    assert await account.apply(usage_entry({CALLS: 3}, reservation_id="r1")) == Overrun(0, 0)
    assert (await account.usage(), await account.usage(CALLS)) == (Usage(0, 60), Usage(3, 0))


async def test_usage_after_the_end_counts_and_is_reported_and_frees_nothing(account: Account) -> None:
    await account.begin(minutes_limit(100))
    await account.reserve("r1", agent_minutes=10)
    await account.reserve("r2", agent_minutes=10)
    await account.apply(usage_entry({MINUTES: 10}, reservation_id="r1", final=True))
    late = usage_entry({MINUTES: 4}, reservation_id="r1", final=True)
    never_made = usage_entry({MINUTES: 4}, reservation_id="r9")
    assert await account.apply(late, never_made) == Overrun(0, 2)
    assert await account.usage() == Usage(18, 10)


async def test_usage_of_another_period_draws_down_but_is_not_counted(account: Account) -> None:
    await account.begin(minutes_limit(100))
    await account.reserve("r1", agent_minutes=10)
    before_us = account.entitled.period.start_us - 1
    await account.apply(usage_entry({MINUTES: 4}, reservation_id="r1", event_time_us=before_us))
    assert await account.usage() == Usage(0, 6)


async def test_usage_that_is_taken_back_leaves_its_period_and_no_counter_goes_below_zero(account: Account) -> None:
    await account.begin(minutes_limit(100), used={MINUTES: 70})
    await account.apply(usage_entry({MINUTES: -30, CALLS: 0}))
    assert await account.usage() == Usage(40, 0)
    await account.apply(usage_entry({MINUTES: -10}, event_time_us=account.entitled.period.start_us - 1))
    assert await account.usage() == Usage(40, 0)
    await account.apply(usage_entry({MINUTES: -QUANTITY_MAX, CALLS: -1}), usage_entry({MINUTES: -QUANTITY_MAX}))
    assert (await account.usage(), await account.usage(CALLS)) == (Usage(0, 0), Usage(0, 0))
    assert (await account.reserve("r1", agent_minutes=100)).decision.outcome is Outcome.ALLOWED


async def test_usage_that_is_taken_back_touches_no_reservation(account: Account) -> None:
    await account.begin(minutes_limit(100))
    await account.reserve("r1", agent_minutes=60)
    await account.apply(usage_entry({MINUTES: 25}, reservation_id="r1"))
    assert await account.apply(usage_entry({MINUTES: -25})) == Overrun(0, 0)
    assert await account.usage() == Usage(0, 35)


# --- expiry


async def test_an_expired_hold_is_freed_only_when_the_applied_position_reached_the_head_seen(account: Account) -> None:
    await account.begin(minutes_limit(100))
    answer = await account.reserve("r1", agent_minutes=10, reserve_us=1)
    assert answer.instant.next_expiry_us == answer.decided_us + 1
    assert list(await account.store.due(account.organization_id)) == ["r1"]
    freed = await account.store.free(account.organization_id, ["r1"], head_sequence=2)
    assert (freed.freed_count, freed.waiting_count) == (0, 1)
    await account.apply(usage_entry({MINUTES: 3}, reservation_id="r1"))
    # A later look sees a later head, but the one noted first decides.
    freed = await account.store.free(account.organization_id, ["r1"], head_sequence=9)
    assert (freed.freed_count, freed.waiting_count) == (0, 1)
    assert await account.usage() == Usage(3, 7)
    await account.apply(usage_entry({CALLS: 1}))
    freed = await account.store.free(account.organization_id, ["r1"], head_sequence=9)
    assert (freed.freed_count, freed.waiting_count, freed.instant.next_expiry_us) == (1, 0, None)
    assert await account.usage() == Usage(3, 0)


async def test_freeing_twice_frees_once(account: Account) -> None:
    await account.begin(minutes_limit(100))
    await account.reserve("r1", agent_minutes=10, reserve_us=1)
    await account.reserve("r2", agent_minutes=10)
    for expected_count in (1, 0):
        freed = await account.store.free(account.organization_id, ["r1"], head_sequence=0)
        assert freed.freed_count == expected_count
    assert await account.usage() == Usage(0, 10)


async def test_a_reservation_whose_time_has_not_come_is_not_freed(account: Account) -> None:
    await account.begin(minutes_limit(100))
    await account.reserve("r1", agent_minutes=10)
    assert list(await account.store.due(account.organization_id)) == []
    freed = await account.store.free(account.organization_id, ["r1"], head_sequence=0)
    assert (freed.freed_count, freed.waiting_count) == (0, 0)
    assert (await account.usage()).held == 10


async def test_a_noted_head_that_the_ledger_no_longer_reaches_keeps_nothing_waiting(account: Account) -> None:
    await account.begin(minutes_limit(100), position=Position(4, "c"))
    await account.reserve("r1", agent_minutes=10, reserve_us=1)
    await account.store.free(account.organization_id, ["r1"], head_sequence=7)
    freed = await account.store.free(account.organization_id, ["r1"], head_sequence=4)
    assert freed.freed_count == 1


# --- following


async def test_a_page_that_is_applied_twice_counts_once(account: Account) -> None:
    await account.begin(minutes_limit(100))
    state = await account.state()
    page = tally([usage_entry({MINUTES: 5})], state.period)
    for expected in (Overrun(0, 0), None):
        done = await account.store.apply(account.organization_id, page, expected=state, position=Position(1, "c"))
        assert done == expected
    assert await account.usage() == Usage(5, 0)
    assert (await account.state()).position == Position(1, "c")


async def test_a_reset_keeps_what_is_held_and_its_reservations(account: Account) -> None:
    await account.begin(minutes_limit(100), used={MINUTES: 50})
    await account.reserve("r1", agent_minutes=10)
    state = await account.state()
    used = {counter(MINUTES): 7}
    assert await account.store.reset(account.entitled, expected=state, position=Position(9, "x"), used=used)
    assert await account.usage() == Usage(7, 10)
    assert await account.state() == replace(state, position=Position(9, "x"))
    await account.apply(usage_entry({MINUTES: 1}, reservation_id="r1", final=True))
    assert await account.usage() == Usage(8, 0)


async def test_a_reset_that_expects_another_state_changes_nothing(account: Account) -> None:
    await account.begin(minutes_limit(100), used={MINUTES: 50})
    state = await account.state()
    for unexpected in (None, replace(state, epoch="other"), replace(state, position=Position(3, ""))):
        assert not await account.store.reset(account.entitled, expected=unexpected, position=START, used={})
    assert await account.usage() == Usage(50, 0)


async def test_a_reset_for_an_entitlement_that_is_not_kept_changes_nothing(account: Account) -> None:
    await account.begin(minutes_limit(100), used={MINUTES: 50})
    other = replace(account.entitled, version=2)
    assert not await account.store.reset(other, expected=await account.state(), position=START, used={})
    assert await account.usage() == Usage(50, 0)


async def test_a_new_period_begins_with_its_own_usage_and_the_open_holds(account: Account) -> None:
    await account.begin(minutes_limit(100), used={MINUTES: 90})
    await account.reserve("r1", agent_minutes=10)
    state = await account.state()
    await account.change(replace(account.entitled, period=period_around(datetime.now(UTC) + timedelta(days=1))))
    with pytest.raises(CountersMissing):
        await account.usage()
    used = {counter(MINUTES): 2}
    assert await account.store.reset(account.entitled, expected=state, position=state.position, used=used)
    assert await account.usage() == Usage(2, 10)


# --- entitlements


async def test_a_check_by_another_entitlement_than_the_one_kept_is_refused(account: Account) -> None:
    with pytest.raises(TermsOutdated):
        await account.usage()
    await account.begin(minutes_limit(100))
    old = account.entitled
    await account.change(replace(old, version=2))
    with pytest.raises(TermsOutdated):
        await account.store.check(decide_check(account.organization_id, {MINUTES: 1}), terms(old))


async def test_an_entitlement_without_counters_says_that_they_are_missing(account: Account) -> None:
    await account.store.put_limits(own_limits(account.organization_id))
    account.entitled = await account.store.put(InForce(entitlement(account.organization_id, minutes_limit(5)), START))
    with pytest.raises(CountersMissing):
        await account.check(decide_check(account.organization_id, {MINUTES: 1}))


async def test_a_period_that_is_over_is_refused_unless_billing_confirms_it(account: Account) -> None:
    over = entitlement(
        account.organization_id, minutes_limit(5), period=period_around(datetime.now(UTC) - timedelta(days=60))
    )
    await account.store.put_limits(own_limits(account.organization_id))
    await account.change(over)
    assert await account.store.reset(over, expected=None, position=START, used={})
    check = decide_check(account.organization_id, {MINUTES: 1})
    with pytest.raises(TermsOutdated):
        await account.store.check(check, terms(over))
    answer = await account.store.check(check, terms(over), period_confirmed=True)
    assert answer.decision.outcome is Outcome.ALLOWED


async def test_a_lower_version_or_an_earlier_period_never_replaces_what_is_kept(account: Account) -> None:
    now = datetime.now(UTC)
    kept = entitlement(account.organization_id, minutes_limit(5), version=3, period=period_around(now))
    assert await account.store.put(InForce(kept, START)) == kept
    earlier_period = replace(kept, period=period_around(now - timedelta(days=30)))
    for lesser in (replace(kept, version=2, plan_id="free"), earlier_period, replace(kept, plan_id="free")):
        assert await account.store.put(InForce(lesser, START)) == kept
    later_period = replace(kept, period=period_around(now + timedelta(days=30)))
    assert await account.store.put(InForce(later_period, START)) == later_period
    higher = replace(kept, version=4)
    assert await account.store.put(InForce(higher, START)) == higher
    assert await account.store.entitlement(account.organization_id) == higher


async def test_an_entitlement_is_replaced_by_a_lower_version_once_and_only_by_who_knows_the_position(
    account: Account,
) -> None:
    name = account.organization_id
    forgotten, current = Position(9, "forgotten"), Position(3, "c3")
    known = InForce(entitlement(name, minutes_limit(10), version=2), current)
    assert not await account.store.replace(known, expected=START)
    assert await account.store.entitlement(name) is None
    await account.store.put(InForce(entitlement(name, minutes_limit(1_000), version=8), forgotten))
    for other in (START, current, Position(9, "c9")):
        assert not await account.store.replace(known, expected=other)
    assert await account.store.replace(known, expected=forgotten)
    assert not await account.store.replace(known, expected=forgotten)
    assert await account.store.entitlement(name) == known.entitlement
    assert await account.store.read_up_to(name) == current


async def test_a_lower_version_further_on_leaves_the_position_by_which_the_rewound_log_is_noticed(
    account: Account,
) -> None:
    kept = entitlement(account.organization_id, minutes_limit(5), version=8)
    await account.store.put(InForce(kept, Position(9, "forgotten")))
    lower = replace(kept, version=2)
    assert await account.store.put(InForce(lower, Position(12, "c12"))) == kept
    assert await account.store.read_up_to(account.organization_id) == Position(9, "forgotten")


async def test_how_far_the_log_of_billing_was_read_only_moves_on(account: Account) -> None:
    assert await account.store.read_up_to(account.organization_id) is None
    kept = entitlement(account.organization_id, minutes_limit(5), version=3)
    for sequence, expected in ((4, 4), (7, 7), (5, 7)):
        assert await account.store.put(InForce(kept, Position(sequence, f"c{sequence}"))) == kept
        assert await account.store.read_up_to(account.organization_id) == Position(expected, f"c{expected}")
