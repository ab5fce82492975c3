"""Quota's use cases on the store and the peers in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta

import pytest

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable, InvalidField
from kit.feed import Position
from kit.testing.clock import FakeClock
from services.quota.adapters.memory import MemoryCounters, MemoryLedger
from services.quota.application.ports import Snapshot
from services.quota.application.single_flight import SingleFlight
from services.quota.domain.decisions import DenyReason, Outcome
from services.quota.domain.entitlements import Entitlement, Period
from services.quota.domain.errors import UnknownMeter
from services.quota.domain.limits import LevelMeter
from services.quota.domain.usage import UsageEntry
from tests.unit.quota.house import House
from tests.unit.quota.samples import (
    AGENTS,
    HOUR_US,
    MINUTES,
    agents_limit,
    decide_check,
    entitlement,
    minutes_limit,
    period_around,
    usage_entry,
)

MINUTE = timedelta(minutes=1)
# Periods here begin 15 days ago.
UNTIL_THE_LAST_MINUTE = timedelta(days=15) - MINUTE


class Stage:
    """A house over a store in memory whose clock stands still."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryCounters(self.clock)
        self.house = House(self.store, "acme")

    def now_us(self) -> int:
        return unix_microseconds(self.clock.now())

    def entitle(self, entitled: Entitlement) -> Entitlement:
        self.house.plans.set(entitled)
        return entitled

    def plan(self, *, version: int = 1, minutes: int | None = 100, agents: int = 1) -> Entitlement:
        limits = (minutes_limit(minutes), agents_limit(agents))
        period = period_around(self.clock.now())
        return self.entitle(entitlement("acme", *limits, version=version, period=period))

    def usage(self, quantity: int, *, reservation_id: str = "", final: bool = False) -> UsageEntry:
        return usage_entry({MINUTES: quantity}, reservation_id=reservation_id, final=final, event_time_us=self.now_us())


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_the_first_check_of_an_organization_asks_billing_and_the_ledger(stage: Stage) -> None:
    stage.plan()
    stage.house.record(stage.usage(70))
    answer = await stage.house.reserve(agent_minutes=30)
    assert answer.decision.outcome is Outcome.ALLOWED
    assert answer.applied_sequence == 1
    assert (await stage.house.reserve("r2", agent_minutes=1)).decision.reason is DenyReason.LIMIT_REACHED


async def test_an_unknown_meter_is_refused(stage: Stage) -> None:
    stage.plan()
    with pytest.raises(UnknownMeter):
        await stage.house.check(decide_check("acme", {"minutes_of_agents": 1}))


async def test_an_unsound_check_is_refused_before_anything_is_looked_up(stage: Stage) -> None:
    with pytest.raises(InvalidField):
        await stage.house.check(decide_check("acme", {}))


async def test_without_billing_an_organization_never_seen_cannot_be_decided(stage: Stage) -> None:
    with pytest.raises(DependencyUnavailable):
        await stage.house.reserve(agent_minutes=1)


async def test_a_listing_shows_every_limit_by_meter_with_its_plan_and_positions(stage: Stage) -> None:
    stage.plan(version=4)
    stage.house.record(stage.usage(70), stage.usage(5))
    quotas = await stage.house.list("acme")
    assert [state.limit.limit_id for state in quotas.states] == ["plan:agent_minutes", "plan:concurrent_agents"]
    assert (quotas.entitlement.plan_id, quotas.entitlement.version, quotas.applied_sequence) == ("starter", 4, 2)
    assert quotas.states[0].remaining == 25


async def test_counters_follow_the_ledger_without_any_check(stage: Stage) -> None:
    stage.plan()
    await stage.house.list("acme")
    stage.house.record(*(stage.usage(1) for _ in range(10)))
    await stage.house.follow()
    quotas = await stage.house.list("acme")
    assert (quotas.states[0].used, quotas.applied_sequence) == (10, 10)


async def test_an_organization_that_nobody_asked_about_is_not_followed(stage: Stage) -> None:
    stage.plan()
    stage.house.record(stage.usage(1))
    await stage.house.follow()
    assert await stage.store.state("acme") is None


async def test_a_plan_change_is_in_force_for_every_process_when_one_has_followed_it(stage: Stage) -> None:
    stage.plan(minutes=10)
    other = House(stage.store, "acme", ledger=stage.house.recorded, source=stage.house.plans)
    assert (await stage.house.reserve("r1", agent_minutes=50)).decision.is_denied
    assert (await other.reserve("r2", agent_minutes=50)).decision.is_denied
    stage.plan(version=2, minutes=100)
    await stage.house.plan_changes.catch_up("acme")
    answer = await other.reserve("r3", agent_minutes=50)
    assert (answer.decision.outcome, answer.entitlement_version) == (Outcome.ALLOWED, 2)


async def test_a_lower_entitlement_version_is_ignored(stage: Stage) -> None:
    stage.plan(version=5, minutes=10)
    await stage.house.list("acme")
    stage.plan(version=4, minutes=1_000)
    await stage.house.plan_changes.catch_up("acme")
    assert (await stage.house.list("acme")).entitlement.version == 5
    assert (await stage.house.reserve(agent_minutes=50)).decision.is_denied


async def test_a_plan_that_a_rewound_log_forgot_is_in_force_no_longer_in_any_process(stage: Stage) -> None:
    stage.plan(minutes=10)
    other = House(stage.store, "acme", ledger=stage.house.recorded, source=stage.house.plans)
    stage.plan(version=2, minutes=1_000)
    assert not (await stage.house.reserve("r1", agent_minutes=50)).decision.is_denied
    assert not (await other.reserve("r2", agent_minutes=50)).decision.is_denied
    stage.house.plans.rewind("acme", to=1)
    # The same version and period, but another plan: only following tells.
    stage.plan(version=2, minutes=20)
    await stage.house.plan_changes.catch_up("acme")
    await other.plan_changes.catch_up("acme")
    assert (await stage.house.reserve("r3", agent_minutes=1)).decision.is_denied
    assert (await other.reserve("r4", agent_minutes=1)).decision.is_denied


async def test_a_new_period_begins_with_its_own_usage_and_draws_what_is_recorded_meanwhile(stage: Stage) -> None:
    first = stage.plan()
    stage.clock.advance(UNTIL_THE_LAST_MINUTE)
    await stage.house.reserve("r1", agent_minutes=40)
    stage.house.record(stage.usage(60))
    await stage.house.follow()
    stage.clock.advance(MINUTE)
    second = Period(first.period.end_us, first.period.end_us + 30 * 24 * HOUR_US)
    stage.entitle(replace(first, period=second))
    # Recorded in the new period, but applied by nobody yet when it begins.
    stage.house.record(stage.usage(7, reservation_id="r1"))
    state = await stage.house.quota()
    assert (state.used, state.held) == (0, 40)
    await stage.house.follow()
    state = await stage.house.quota()
    assert (state.used, state.held) == (7, 33)


async def test_a_period_that_billing_still_calls_current_stays_in_force(stage: Stage) -> None:
    stage.plan()
    stage.clock.advance(UNTIL_THE_LAST_MINUTE)
    await stage.house.reserve("r1", agent_minutes=40)
    stage.clock.advance(MINUTE)
    assert (await stage.house.reserve("r2", agent_minutes=70)).decision.is_denied
    assert not (await stage.house.reserve("r3", agent_minutes=60)).decision.is_denied


async def test_a_lost_store_is_rebuilt_by_the_next_check(stage: Stage) -> None:
    stage.plan()
    await stage.house.reserve("r1", agent_minutes=20)
    stage.house.record(stage.usage(90))
    await stage.house.follow()
    stage.store.lose_everything()
    assert (await stage.house.reserve("r2", agent_minutes=11)).decision.is_denied
    state = await stage.house.quota()
    assert (state.used, state.held) == (90, 0)


async def test_a_rewound_ledger_is_followed_again_from_its_snapshot(stage: Stage) -> None:
    stage.plan()
    await stage.house.reserve("r1", agent_minutes=20)
    stage.house.record(stage.usage(10))
    stage.house.record(stage.usage(30))
    await stage.house.follow()
    stage.house.recorded.rewind("acme", to=1)
    stage.house.record(stage.usage(5))
    await stage.house.follow()
    state = await stage.house.quota()
    assert (state.used, state.held) == (15, 20)


async def test_a_ledger_whose_next_events_are_gone_is_followed_again_from_its_snapshot(stage: Stage) -> None:
    stage.plan()
    await stage.house.reserve("r1", agent_minutes=20)
    stage.house.record(stage.usage(10))
    await stage.house.follow()
    stage.house.record(stage.usage(30), stage.usage(5))
    stage.house.recorded.drop("acme", upto=2)
    await stage.house.follow()
    state = await stage.house.quota()
    assert (state.used, state.held) == (45, 20)
    stage.house.record(stage.usage(1))
    await stage.house.follow()
    assert (await stage.house.quota()).used == 46


async def test_two_followers_at_once_count_every_event_once(stage: Stage) -> None:
    stage.plan(minutes=None)
    others = [House(stage.store, "acme", ledger=stage.house.recorded, source=stage.house.plans) for _ in range(4)]
    await stage.house.list("acme")
    stage.house.record(*(stage.usage(1) for _ in range(50)))
    await asyncio.gather(*(other.follow() for other in others))
    await stage.house.follow()
    assert (await stage.house.quota()).used == 50


# --- expiry


async def test_an_expired_hold_denies_nobody(stage: Stage) -> None:
    stage.plan(agents=1)
    await stage.house.reserve("r1", concurrent_agents=1, reserve_us=60_000_000)
    assert (await stage.house.reserve("r2", concurrent_agents=1)).decision.reason is DenyReason.CONCURRENCY
    stage.clock.advance(MINUTE)
    assert (await stage.house.reserve("r2", concurrent_agents=1)).decision.outcome is Outcome.ALLOWED


async def test_an_expired_hold_is_not_listed(stage: Stage) -> None:
    stage.plan(agents=1)
    await stage.house.reserve("r1", concurrent_agents=1, reserve_us=60_000_000)
    assert (await stage.house.quota(AGENTS)).held == 1
    stage.clock.advance(MINUTE)
    assert (await stage.house.quota(AGENTS)).held == 0


async def test_usage_recorded_before_the_end_is_counted_before_the_hold_is_freed(stage: Stage) -> None:
    stage.plan()
    await stage.house.reserve("r1", agent_minutes=80, reserve_us=60_000_000)
    stage.house.record(stage.usage(70, reservation_id="r1"))
    stage.clock.advance(MINUTE)
    assert await stage.house.free_expired("acme") == 1
    state = await stage.house.quota()
    assert (state.used, state.held) == (70, 0)


class Unreachable(MemoryLedger):
    """A ledger that can be read or not."""

    is_down = False

    async def head(self, organization_id: str) -> Position:
        if self.is_down:
            raise DependencyUnavailable(dependency="metering")
        return await super().head(organization_id)


async def test_an_expired_hold_stays_while_the_ledger_cannot_be_asked(stage: Stage) -> None:
    ledger = Unreachable()
    house = House(stage.store, "acme", ledger=ledger, source=stage.house.plans)
    stage.plan(agents=1)
    await house.reserve("r1", concurrent_agents=1, reserve_us=60_000_000)
    stage.clock.advance(MINUTE)
    ledger.is_down = True
    assert (await house.reserve("r2", concurrent_agents=1)).decision.is_denied
    ledger.is_down = False
    assert not (await house.reserve("r2", concurrent_agents=1)).decision.is_denied


# --- races


class Overtaken(MemoryLedger):
    """A ledger whose snapshot is old news by the time it is used, once."""

    follower: House
    meanwhile: UsageEntry | None = None

    async def snapshot(
        self,
        organization_id: str,
        period: Period,
        tracked: Collection[LevelMeter] = (),
        *,
        as_of_sequence: int | None = None,
    ) -> Snapshot:
        snapshot = await super().snapshot(organization_id, period, tracked, as_of_sequence=as_of_sequence)
        if self.meanwhile is not None:
            self.append(organization_id, self.meanwhile)
            self.meanwhile = None
            await self.follower.follow()
        return snapshot


async def test_a_rebuild_that_a_follower_overtakes_changes_nothing_and_is_tried_again(stage: Stage) -> None:
    ledger = Overtaken()
    house = House(stage.store, "acme", ledger=ledger, source=stage.house.plans)
    ledger.follower = House(stage.store, "acme", ledger=ledger, source=stage.house.plans)
    first = stage.plan()
    ledger.append("acme", stage.usage(10))
    await house.list("acme")
    stage.entitle(replace(first, version=2, period=replace(first.period, start_us=first.period.start_us + 1)))
    await house.plan_changes.catch_up("acme")
    ledger.meanwhile = stage.usage(5)
    assert (await house.quota()).used in (10, 15)
    await house.follow()
    assert (await house.quota()).used == 15


async def test_many_who_want_the_same_at_once_cause_one_piece_of_work() -> None:
    flights = SingleFlight[int]()
    begun: list[int] = []
    open_gate = asyncio.Event()

    async def work() -> int:
        begun.append(1)
        await open_gate.wait()
        return 7

    waiting = [asyncio.create_task(flights("k", work)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    open_gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert outcomes[1:] == [7, 7, 7, 7]
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert len(begun) == 1


async def test_an_entry_of_billings_log_that_changes_no_entitlement_is_passed(stage: Stage) -> None:
    entitled = stage.plan()
    await stage.house.list("acme")
    stage.entitle(entitled)
    await stage.house.plan_changes.catch_up("acme")
    reached = await stage.store.read_up_to("acme")
    assert reached is not None
    assert (reached.sequence, (await stage.house.list("acme")).entitlement) == (2, entitled)
