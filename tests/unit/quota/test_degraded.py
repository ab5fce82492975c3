"""Decisions without counters, and what becomes of them, over a store that goes away and comes back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable, RequestIdReused
from kit.testing.clock import FakeClock
from services.quota.adapters.memory import MemoryCounters
from services.quota.application import grants
from services.quota.application.ports import Answer, StoreUnavailable
from services.quota.domain.checks import Check, Consumption, Mode, Subject
from services.quota.domain.decisions import DenyReason, Outcome
from services.quota.domain.degraded import Seen, allowance
from services.quota.domain.entitlements import Standing
from services.quota.domain.limits import (
    Limit,
    LimitKind,
    LimitScope,
    ScopeKind,
    UnavailablePolicy,
    Window,
    WindowStyle,
    plan_limit,
)
from tests.unit.quota.house import House
from tests.unit.quota.samples import CALLS, MINUTES, entitlement, usage_entry

ORGANIZATION_ID = "acme"
HOUR_US = 3_600_000_000
MINUTE = Window(60_000_000, WindowStyle.FIXED)


class Away(MemoryCounters):
    """A store that can be cut off; optionally after it did what it was asked."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.is_away = False
        self.loses_answers = False

    async def check(self, check: Check, terms: Any, *, period_confirmed: bool = False) -> Answer:
        if self.is_away:
            raise StoreUnavailable(dependency="Redis")
        answer = await super().check(check, terms, period_confirmed=period_confirmed)
        if self.loses_answers:
            raise StoreUnavailable(dependency="Redis")
        return answer

    async def extend(self, *args: Any, **named: Any) -> Any:
        return await self._unless_away(super().extend, *args, **named)

    async def register(self, *args: Any, **named: Any) -> Any:
        return await self._unless_away(super().register, *args, **named)

    async def commit(self, *args: Any, **named: Any) -> Any:
        return await self._unless_away(super().commit, *args, **named)

    async def release(self, *args: Any, **named: Any) -> Any:
        return await self._unless_away(super().release, *args, **named)

    async def kept(self, organization_id: str) -> Any:
        return await self._unless_away(super().kept, organization_id)

    async def _unless_away(self, do: Any, *args: Any, **named: Any) -> Any:
        if self.is_away:
            raise StoreUnavailable(dependency="Redis")
        return await do(*args, **named)


def minutes(value: int | None, policy: UnavailablePolicy = UnavailablePolicy.ALLOW, grace_percent: int = 0) -> Limit:
    return replace(plan_limit(MINUTES, LimitKind.PERIOD, value, grace_percent), on_unavailable=policy)


class Scene:
    """An organization that this process has seen, and a store that it loses."""

    def __init__(self, *limits: Limit) -> None:
        self.clock = FakeClock()
        self.store = Away(self.clock)
        self.house = House(self.store, ORGANIZATION_ID, clock=self.clock)
        self.limits = limits

    async def see(self, **quantities: int) -> None:
        period_us = unix_microseconds(self.clock.now())
        entitled = entitlement(ORGANIZATION_ID, *self.limits)
        period = replace(entitled.period, start_us=period_us - HOUR_US, end_us=period_us + 1_000 * HOUR_US)
        self.house.plans.set(replace(entitled, period=period))
        if quantities:
            await self.ask(quantities[MINUTES], "seen")
        else:
            await self.ask(0, mode=Mode.DECIDE)

    def lose(self) -> None:
        self.store.is_away = True

    def find(self) -> None:
        self.store.is_away = False
        # Longer than a failed look keeps the next one waiting.
        self.clock.advance(timedelta(seconds=1))

    def check(
        self, quantity: int | None, request_id: str = "", *, meter: str = MINUTES, mode: Mode = Mode.RESERVE
    ) -> Check:
        return Check(
            request_id=request_id,
            subject=Subject(organization_id=ORGANIZATION_ID),
            consumptions=(Consumption(meter, quantity),),
            mode=mode,
            reserve_us=HOUR_US if mode is Mode.RESERVE else 0,
        )

    async def ask(
        self, quantity: int | None, request_id: str = "", *, meter: str = MINUTES, mode: Mode = Mode.RESERVE
    ) -> Answer:
        return await self.house.check(self.check(quantity, request_id, meter=meter, mode=mode))

    async def held(self) -> int:
        return (await self.house.quota()).held


def test_an_allowance_is_one_hundredth_of_the_hard_limit_and_at_least_one() -> None:
    assert allowance(minutes(10_000, grace_percent=10), Seen()) == 110
    assert allowance(minutes(5), Seen()) == 1


def test_an_allowance_is_never_more_than_was_left_when_last_seen() -> None:
    assert allowance(minutes(10_000), Seen(used=9_000, held=930, is_known=True)) == 70
    assert allowance(minutes(10_000), Seen(used=9_000, held=2_000, is_known=True)) == 0
    assert allowance(minutes(0), Seen()) == 0


def test_what_is_unlimited_has_no_allowance() -> None:
    assert allowance(minutes(None), Seen()) is None


async def test_a_limit_that_denies_what_it_cannot_count_denies() -> None:
    scene = Scene(minutes(10_000, UnavailablePolicy.DENY))
    await scene.see()
    scene.lose()
    for mode in Mode:
        answer = await scene.ask(1, "r1", mode=mode)
        assert (answer.decision.outcome, answer.decision.reason) == (Outcome.DENIED, DenyReason.STORE_UNAVAILABLE)
        assert answer.degraded


async def test_one_limit_that_denies_is_enough() -> None:
    also = Limit("own", LimitScope(ScopeKind.ORGANIZATION), MINUTES, LimitKind.PERIOD, 10_000, 0)
    scene = Scene(minutes(10_000, UnavailablePolicy.DENY), also)
    await scene.see()
    scene.lose()
    assert (await scene.ask(1, "r1")).decision.is_denied


async def test_a_process_grants_its_allowance_and_no_more() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.lose()
    answers = [await scene.ask(30, f"r{number}") for number in range(5)]
    assert [answer.decision.is_denied for answer in answers] == [False, False, False, True, True]
    assert answers[3].decision.reason is DenyReason.STORE_UNAVAILABLE
    assert not (await scene.ask(10, "smaller")).decision.is_denied


async def test_a_process_grants_no_more_than_was_left_when_it_looked_last() -> None:
    scene = Scene(minutes(10_000))
    await scene.see(agent_minutes=9_960)
    scene.lose()
    assert not (await scene.ask(40, "r1")).decision.is_denied
    assert (await scene.ask(1, "r2")).decision.is_denied


async def test_what_is_unlimited_is_allowed() -> None:
    scene = Scene(minutes(None))
    await scene.see()
    scene.lose()
    assert not (await scene.ask(10**12, "r1")).decision.is_denied


async def test_no_standing_denies_as_ever() -> None:
    scene = Scene(minutes(None))
    await scene.see()
    kept = await scene.house.terms(ORGANIZATION_ID)
    suspended = replace(kept.entitlement, standing=Standing.SUSPENDED, version=kept.entitlement.version + 1)
    scene.house.terms.note_entitlement(suspended)
    scene.lose()
    assert (await scene.ask(1, "r1")).decision.reason is DenyReason.SUSPENDED


async def test_a_process_that_never_saw_the_organization_cannot_answer() -> None:
    scene = Scene(minutes(10_000))
    scene.lose()
    with pytest.raises(DependencyUnavailable):
        await scene.ask(1, "r1")


async def test_asking_alone_gives_nothing_away() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.lose()
    for _ in range(5):
        assert not (await scene.ask(100, mode=Mode.DECIDE)).decision.is_denied
    assert not (await scene.ask(100, "r1")).decision.is_denied


async def test_a_retry_of_a_grant_gets_its_answer_and_takes_nothing_more() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.lose()
    first = await scene.ask(60, "r1")
    assert await scene.ask(60, "r1") == first
    assert not (await scene.ask(40, "r2")).decision.is_denied
    with pytest.raises(RequestIdReused):
        await scene.ask(61, "r1")


async def test_grants_are_held_before_anything_else_is_decided_when_the_store_is_back() -> None:
    scene = Scene(minutes(10_000))
    await scene.see(agent_minutes=9_950)
    scene.lose()
    await scene.ask(50, "r1")
    scene.find()
    answer = await scene.ask(1, "r2")
    assert (answer.decision.reason, answer.degraded) == (DenyReason.LIMIT_REACHED, False)
    assert await scene.held() == 10_000


async def test_a_retry_after_the_store_is_back_gets_what_was_granted_and_is_held_once() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.lose()
    await scene.ask(60, "r1")
    scene.find()
    assert not (await scene.ask(60, "r1")).decision.is_denied
    assert await scene.held() == 60


async def test_a_check_whose_answer_was_lost_is_granted_and_held_once() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.store.loses_answers = True
    assert (await scene.ask(60, "r1")).degraded
    scene.store.loses_answers = False
    await scene.house.register(ORGANIZATION_ID)
    assert await scene.held() == 60


async def test_usage_that_came_before_a_grant_is_registered_is_counted_once() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.lose()
    await scene.ask(60, "r1")
    scene.find()
    now_us = unix_microseconds(scene.clock.now())
    scene.house.record(usage_entry({MINUTES: 45}, reservation_id="r1", event_time_us=now_us))
    await scene.house.follow()
    await scene.house.register(ORGANIZATION_ID)
    quota = await scene.house.quota()
    assert (quota.used, quota.held) == (45, 15)


async def test_a_lost_store_holds_the_grants_too() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.lose()
    await scene.ask(60, "r1")
    scene.store.lose_everything()
    scene.find()
    await scene.house.register(ORGANIZATION_ID)
    assert await scene.held() == 60


async def test_the_allowance_is_whole_again_only_when_the_store_was_told() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.lose()
    await scene.ask(100, "r1")
    scene.clock.advance(timedelta(hours=2))
    assert (await scene.ask(1, "r2")).decision.is_denied
    scene.find()
    await scene.house.register(ORGANIZATION_ID)
    scene.lose()
    assert not (await scene.ask(100, "r3")).decision.is_denied


async def test_a_store_that_comes_and_goes_is_never_overspent_by_more_than_one_allowance() -> None:
    scene = Scene(minutes(1_000))
    await scene.see(agent_minutes=985)
    for number in range(20):
        scene.lose()
        await scene.ask(10, f"r{number}")
        scene.find()
        await scene.house.register(ORGANIZATION_ID)
    assert await scene.held() <= 1_000


async def test_a_grant_whose_time_is_over_is_not_held_afterwards() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.lose()
    await scene.ask(60, "r1")
    scene.clock.advance(timedelta(hours=2))
    scene.find()
    await scene.house.register(ORGANIZATION_ID)
    assert await scene.held() == 0


def rate(value: int) -> Limit:
    return Limit("rate", LimitScope(ScopeKind.ORGANIZATION), CALLS, LimitKind.WINDOW, value, 0, MINUTE)


async def test_what_is_consumed_without_the_store_never_lands_in_a_later_window() -> None:
    scene = Scene(rate(1_000))
    await scene.see()
    scene.lose()
    assert not (await scene.ask(10, meter=CALLS, mode=Mode.CONSUME)).decision.is_denied
    scene.find()
    await scene.house.register(ORGANIZATION_ID)
    assert (await scene.house.quota(CALLS)).used == 0


async def test_the_allowance_of_a_window_is_whole_again_after_its_length_and_not_before() -> None:
    scene = Scene(rate(1_000))
    await scene.see()
    scene.lose()
    assert not (await scene.ask(10, meter=CALLS, mode=Mode.CONSUME)).decision.is_denied
    scene.find()
    await scene.house.register(ORGANIZATION_ID)
    scene.lose()
    assert (await scene.ask(1, meter=CALLS, mode=Mode.CONSUME)).decision.is_denied
    scene.clock.advance(timedelta(minutes=1))
    assert not (await scene.ask(10, meter=CALLS, mode=Mode.CONSUME)).decision.is_denied


async def test_a_task_goes_on_within_what_it_holds_until_its_known_end() -> None:
    scene = Scene(minutes(10_000, UnavailablePolicy.DENY))
    await scene.see()
    first = await scene.ask(500, "r1")
    scene.lose()
    extended = await scene.house.extend(scene.check(500, "r1"))
    assert not extended.answer.decision.is_denied
    assert extended.answer.reservation == first.reservation
    assert (await scene.house.extend(scene.check(501, "r1"))).answer.decision.is_denied
    scene.clock.advance(timedelta(hours=1))
    assert (await scene.house.extend(scene.check(500, "r1"))).answer.decision.is_denied


async def test_an_extension_beyond_what_is_held_takes_of_the_allowance_and_keeps_the_hold_alive() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    first = await scene.ask(500, "r1")
    scene.lose()
    scene.clock.advance(timedelta(minutes=30))
    extended = await scene.house.extend(scene.check(600, "r1"))
    assert first.reservation is not None
    assert extended.answer.reservation is not None
    assert extended.answer.reservation.expire_us > first.reservation.expire_us
    assert (await scene.ask(1, "r2")).decision.is_denied
    scene.find()
    await scene.house.register(ORGANIZATION_ID)
    again = await scene.ask(500, "r1")
    assert again.reservation == extended.answer.reservation


async def test_what_an_extension_was_given_beyond_its_hold_is_held_when_the_store_is_back() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    await scene.ask(500, "r1")
    scene.lose()
    assert not (await scene.house.extend(scene.check(600, "r1"))).answer.decision.is_denied
    scene.find()
    await scene.house.register(ORGANIZATION_ID)
    assert await scene.held() == 600
    assert (await scene.ask(9_401, "r2")).decision.is_denied


async def test_an_extension_of_a_grant_is_registered_as_one() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.lose()
    await scene.ask(40, "r1")
    assert not (await scene.house.extend(scene.check(100, "r1"))).answer.decision.is_denied
    assert (await scene.house.extend(scene.check(101, "r1"))).answer.decision.is_denied
    scene.find()
    assert not (await scene.ask(40, "r1")).decision.is_denied
    assert await scene.held() == 100


async def test_an_extension_of_what_this_process_never_saw_goes_by_policy() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.lose()
    assert not (await scene.house.extend(scene.check(100, "elsewhere"))).answer.decision.is_denied
    assert (await scene.house.extend(scene.check(1, "another"))).answer.decision.is_denied
    with pytest.raises(DependencyUnavailable):
        await scene.house.extend(replace(scene.check(1, "unknown"), consumptions=()))


async def test_commit_and_release_wait_for_the_store_and_find_what_was_granted() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.lose()
    await scene.ask(30, "r1")
    await scene.ask(30, "r2")
    with pytest.raises(DependencyUnavailable):
        await scene.house.commit(ORGANIZATION_ID, "r1", {MINUTES: 20})
    with pytest.raises(DependencyUnavailable):
        await scene.house.release(ORGANIZATION_ID, "r2")
    scene.find()
    settlement = await scene.house.commit(ORGANIZATION_ID, "r1", {MINUTES: 20})
    assert settlement.held == {MINUTES: 20}
    assert await scene.house.release(ORGANIZATION_ID, "r2")
    assert await scene.held() == 20


async def test_each_check_of_a_batch_is_answered_by_policy() -> None:
    scene = Scene(minutes(10_000))
    await scene.see()
    scene.lose()
    checks = [scene.check(60, "r1"), scene.check(60, "r2"), scene.check(40, "r3")]
    answers = await scene.house.check_batch(checks)
    outcomes = [answer.decision.outcome for answer in answers if isinstance(answer, Answer) and answer.degraded]
    assert outcomes == [Outcome.ALLOWED, Outcome.DENIED, Outcome.ALLOWED]
    scene.find()
    await scene.house.check_batch([scene.check(1, "r4")])
    assert await scene.held() == 101


async def test_what_cannot_be_remembered_is_given_only_where_nothing_limits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "GRANTS_MAX", 3)
    limited, unlimited = Scene(minutes(10**9)), Scene(minutes(None))
    for scene in (limited, unlimited):
        await scene.see()
        scene.lose()
        for number in range(3):
            assert not (await scene.ask(1, f"r{number}")).decision.is_denied
    assert (await limited.ask(1, "one-more")).decision.is_denied
    assert not (await unlimited.ask(1, "one-more")).decision.is_denied
