"""Limits of an organization's own, from SetLimit to the decision, on the store and the peers in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable, InvalidField, LimitExceeded, RequestIdReused
from kit.testing.clock import FakeClock
from services.quota.adapters.memory import MemoryCounters
from services.quota.application.ports import ChangeRequest
from services.quota.domain.decisions import DenyReason
from services.quota.domain.errors import UnknownMeter
from services.quota.domain.limits import (
    ORGANIZATION,
    WHOLE_ORGANIZATION,
    Limit,
    LimitKind,
    LimitScope,
    Scope,
    ScopeKind,
    Window,
    WindowStyle,
)
from services.quota.domain.maxima import DENIAL_REMEMBERED_SECONDS, OWN_LIMITS_MAX
from services.quota.domain.own_limits import require_room, require_sound
from services.quota.domain.terms import OwnLimits
from tests.unit.quota.house import House
from tests.unit.quota.samples import (
    CALLS,
    LATENCY,
    MINUTES,
    decide_check,
    entitlement,
    minutes_limit,
    period_around,
    usage_entry,
    user_limit,
)

USER = Scope(ScopeKind.USER, "u1")
OTHER_USER = Scope(ScopeKind.USER, "u2")


class Unwritable(MemoryCounters):
    """A store that limits cannot be put into for a while."""

    is_away = False

    async def put_limits(self, own: OwnLimits) -> OwnLimits:
        if self.is_away:
            raise DependencyUnavailable(dependency="Redis")
        return await super().put_limits(own)


class Stage:
    """Two processes over one store whose clock stands still."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = Unwritable(self.clock)
        self.house = House(self.store, "acme")
        self.other = House(
            self.store, "acme", ledger=self.house.recorded, source=self.house.plans, limits=self.house.limits
        )
        self.period = period_around(self.clock.now())
        self.house.plans.set(entitlement("acme", minutes_limit(1_000), period=self.period))

    def record(self, quantity: int, *scopes: Scope, reservation_id: str = "", final: bool = False) -> None:
        entry = usage_entry(
            {MINUTES: quantity},
            reservation_id=reservation_id,
            final=final,
            event_time_us=unix_microseconds(self.clock.now()),
            scopes=(ORGANIZATION, *scopes),
        )
        self.house.record(entry)

    async def set(self, limit: Limit, request_id: str = "q1") -> Limit:
        return await self.house.set_limit("acme", limit, request(request_id))

    async def denied(self, quantity: int, *, user_id: str = "", house: House | None = None) -> bool:
        check = decide_check("acme", {MINUTES: quantity}, user_id=user_id)
        return (await (house or self.house).check(check)).decision.is_denied


def request(request_id: str, digest: bytes = b"d") -> ChangeRequest:
    return ChangeRequest(request_id=request_id, digest=digest, actor="tenant:key-1")


@pytest.fixture
def stage() -> Stage:
    return Stage()


MINE = Limit("mine", WHOLE_ORGANIZATION, MINUTES, LimitKind.PERIOD, 10, 0)


async def test_a_limit_is_in_force_in_every_process_when_set_limit_returns(stage: Stage) -> None:
    assert not await stage.denied(11)
    assert not await stage.denied(11, house=stage.other)
    await stage.set(MINE)
    assert await stage.denied(11)
    assert await stage.denied(11, house=stage.other)


async def test_it_stands_beside_the_plan_s_limit_and_never_instead_of_it(stage: Stage) -> None:
    await stage.set(replace(MINE, value=2_000))
    answer = await stage.house.check(decide_check("acme", {MINUTES: 1_001}))
    assert [state.limit.limit_id for state in answer.decision.states] == ["plan:agent_minutes", "mine"]
    assert answer.decision.is_denied


async def test_set_and_delete_wait_until_denials_remembered_anywhere_have_lapsed(stage: Stage) -> None:
    await stage.set(MINE)
    await stage.house.delete_limit("acme", "mine", request("q2"))
    assert stage.house.pauses == [DENIAL_REMEMBERED_SECONDS] * 2


async def test_a_deleted_limit_is_out_of_force_in_every_process(stage: Stage) -> None:
    await stage.set(MINE)
    assert await stage.denied(11, house=stage.other)
    await stage.house.delete_limit("acme", "mine", request("q2"))
    assert not await stage.denied(11, house=stage.other)


async def test_a_limit_without_an_id_gets_one_and_a_retry_answers_the_same(stage: Stage) -> None:
    first = await stage.set(replace(MINE, limit_id=""))
    assert first.limit_id
    assert await stage.set(replace(MINE, limit_id="")) == first
    assert len((await stage.house.limits.own_limits("acme")).limits) == 1


async def test_a_request_id_with_other_content_is_refused(stage: Stage) -> None:
    await stage.set(MINE)
    with pytest.raises(RequestIdReused):
        await stage.house.set_limit("acme", replace(MINE, value=5), request("q1", b"other"))
    assert not await stage.denied(6)


async def test_when_the_store_is_away_the_same_request_again_does_what_is_left(stage: Stage) -> None:
    assert not await stage.denied(11)
    stage.store.is_away = True
    with pytest.raises(DependencyUnavailable):
        await stage.set(MINE)
    assert not await stage.denied(11)
    stage.store.is_away = False
    await stage.set(MINE)
    assert await stage.denied(11)
    assert (await stage.house.limits.own_limits("acme")).sequence == 1


async def test_when_nobody_tries_again_the_follower_puts_the_limit_in_force(stage: Stage) -> None:
    assert not await stage.denied(11)
    stage.store.is_away = True
    with pytest.raises(DependencyUnavailable):
        await stage.set(MINE)
    stage.store.is_away = False
    await stage.other.limit_changes.catch_up("acme")
    assert await stage.denied(11)


async def test_limits_lost_with_the_store_come_back_with_the_next_check(stage: Stage) -> None:
    await stage.set(MINE)
    stage.store.lose_everything()
    assert await stage.denied(11)


async def test_f16_a_limit_lowered_below_what_is_used_leaves_nothing_and_never_less(stage: Stage) -> None:
    stage.record(50)
    await stage.set(MINE)
    answer = await stage.house.check(decide_check("acme", {MINUTES: 1}))
    mine = next(state for state in answer.decision.states if state.limit.limit_id == "mine")
    assert (answer.decision.reason, mine.used, mine.remaining) == (DenyReason.LIMIT_REACHED, 50, 0)
    await stage.set(replace(MINE, value=51), "q2")
    assert not await stage.denied(1, house=stage.other)


async def test_after_a_rewound_record_its_limits_are_in_force_again(stage: Stage) -> None:
    await stage.set(MINE)
    await stage.set(replace(MINE, value=5), "q2")
    assert await stage.denied(6)
    stage.house.limits.rewind("acme", to=1)
    await stage.other.limit_changes.catch_up("acme")
    assert not await stage.denied(6)
    assert await stage.denied(11)


async def test_a_limit_set_after_a_rewind_is_in_force_although_its_number_is_lower(stage: Stage) -> None:
    for number in range(3):
        await stage.set(replace(MINE, value=100 + number), f"q{number}")
    stage.house.limits.rewind("acme", to=1)
    await stage.set(replace(MINE, value=5), "after the restore")
    assert await stage.denied(6)
    assert await stage.denied(6, house=stage.other)


# --- levels below the organization


async def test_a_limit_of_each_user_counts_usage_from_before_it_was_set_exactly(stage: Stage) -> None:
    stage.record(70, USER)
    stage.record(20, OTHER_USER)
    stage.record(5)
    await stage.house.list("acme")
    await stage.house.follow()
    await stage.set(user_limit(100))
    assert not await stage.denied(30, user_id="u1")
    assert await stage.denied(31, user_id="u1")
    assert not await stage.denied(80, user_id="u2")
    assert not await stage.denied(100, user_id="never-seen")
    assert not await stage.denied(500)


async def test_what_is_used_after_the_limit_was_set_is_followed_by_level(stage: Stage) -> None:
    await stage.set(user_limit(100))
    assert not await stage.denied(100, user_id="u1")
    stage.record(60, USER)
    stage.record(40, OTHER_USER)
    await stage.house.follow()
    assert await stage.denied(41, user_id="u1")
    assert not await stage.denied(40, user_id="u1")


async def test_a_limit_of_one_user_leaves_the_others_alone(stage: Stage) -> None:
    await stage.set(user_limit(10, user_id="u1"))
    assert await stage.denied(11, user_id="u1")
    assert not await stage.denied(11, user_id="u2")


async def test_a_limit_for_a_new_level_rebuilds_once_and_keeps_position_and_holds(stage: Stage) -> None:
    await stage.house.reserve("r1", agent_minutes=30)
    stage.record(10, USER)
    await stage.house.follow()
    before = await stage.store.state("acme")
    await stage.set(user_limit(100))
    assert not await stage.denied(90, user_id="u1")
    after = await stage.store.state("acme")
    assert before is not None
    assert after is not None
    assert (after.epoch, after.position) == (before.epoch, before.position)
    assert {(each.level, each.meter) for each in after.tracked} == {(ScopeKind.USER, MINUTES)}
    assert (await stage.house.quota()).held == 30


async def test_a_removed_limit_that_comes_back_within_the_period_finds_its_counters(stage: Stage) -> None:
    await stage.set(user_limit(100))
    assert not await stage.denied(1, user_id="u1")
    await stage.house.delete_limit("acme", "per-user", request("q2"))
    stage.record(60, USER)
    await stage.house.follow()
    state = await stage.store.state("acme")
    await stage.set(user_limit(100), "q3")
    assert await stage.denied(41, user_id="u1")
    assert await stage.store.state("acme") == state


async def test_a_reservation_holds_under_every_scope_and_its_usage_draws_all_of_them(stage: Stage) -> None:
    await stage.set(user_limit(100))
    await stage.house.reserve("r1", user_id="u1", agent_minutes=60)
    assert await stage.denied(41, user_id="u1")
    assert not await stage.denied(100, user_id="u2")
    stage.record(50, USER, reservation_id="r1", final=True)
    await stage.house.follow()
    assert not await stage.denied(50, user_id="u1")
    assert await stage.denied(51, user_id="u1")


async def test_a_hold_from_before_the_limit_counts_for_it(stage: Stage) -> None:
    await stage.house.reserve("r1", user_id="u1", agent_minutes=60)
    await stage.set(user_limit(100))
    assert await stage.denied(41, user_id="u1")
    assert not await stage.denied(40, user_id="u1")


# --- what may be set


@pytest.mark.parametrize(
    "unsound",
    [
        replace(MINE, limit_id="plan:agent_minutes"),
        replace(MINE, limit_id="a b"),
        replace(MINE, limit_id="x" * 129),
        replace(MINE, scope=LimitScope(ScopeKind.ORGANIZATION, "acme")),
        replace(MINE, scope=LimitScope(ScopeKind.USER, "")),
        replace(MINE, scope=LimitScope(ScopeKind.USER, "a|b")),
        replace(MINE, value=-1),
        replace(MINE, value=2**53),
        replace(MINE, grace_percent=-1),
        replace(MINE, grace_percent=1_001),
        replace(MINE, kind=LimitKind.WINDOW),
        replace(MINE, window=Window(60_000_000, WindowStyle.FIXED)),
        replace(MINE, kind=LimitKind.WINDOW, window=Window(61_000_000, WindowStyle.FIXED)),
        replace(MINE, kind=LimitKind.WINDOW, window=Window(0, WindowStyle.FIXED)),
    ],
)
def test_an_unsound_limit_is_refused(unsound: Limit) -> None:
    with pytest.raises(InvalidField):
        require_sound(unsound)


@pytest.mark.parametrize("seconds", [1, 60, 3_600, 86_400])
def test_a_window_is_a_second_a_minute_an_hour_or_a_day(seconds: int) -> None:
    require_sound(replace(MINE, kind=LimitKind.WINDOW, window=Window(seconds * 1_000_000, WindowStyle.SLIDING)))


def test_an_organization_has_a_most_of_limits() -> None:
    limits = [replace(MINE, limit_id=f"l{number}") for number in range(OWN_LIMITS_MAX + 1)]
    require_room(limits[:-1])
    with pytest.raises(LimitExceeded):
        require_room(limits)


async def test_a_limit_needs_a_meter_of_measurements(stage: Stage) -> None:
    with pytest.raises(UnknownMeter):
        await stage.set(replace(MINE, meter="minutes_of_agents"))
    with pytest.raises(InvalidField):
        await stage.set(replace(MINE, meter=LATENCY))
    assert (await stage.house.limits.own_limits("acme")).sequence == 0


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a\nb"])
async def test_a_change_needs_a_request_id(stage: Stage, request_id: str) -> None:
    with pytest.raises(InvalidField):
        await stage.set(MINE, request_id)
    with pytest.raises(InvalidField):
        await stage.house.delete_limit("acme", "mine", request(request_id))


async def test_a_plan_s_limit_cannot_be_deleted(stage: Stage) -> None:
    with pytest.raises(InvalidField):
        await stage.house.delete_limit("acme", "plan:agent_minutes", request("q1"))


async def test_own_limits_and_the_plan_s_are_listed_by_id_page_by_page(stage: Stage) -> None:
    await stage.set(replace(MINE, limit_id="z"), "q1")
    await stage.set(replace(MINE, limit_id="a", meter=CALLS), "q2")
    first = await stage.house.list_limits("acme", size=2)
    assert [limit.limit_id for limit in first.limits] == ["a", "plan:agent_minutes"]
    second = await stage.house.list_limits("acme", after=first.next_after, size=2)
    assert ([limit.limit_id for limit in second.limits], second.next_after) == (["z"], "")
    with pytest.raises(InvalidField):
        await stage.house.list_limits("acme", size=1_001)
