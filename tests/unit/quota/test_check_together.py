"""Concurrent checks of one process share calls of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from kit.errors import DependencyUnavailable, RequestIdReused
from kit.testing.clock import FakeClock
from services.quota.adapters.memory import MemoryCounters
from services.quota.application.check_together import CheckTogether
from services.quota.application.ports import Answer, CheckGroup, StoreUnavailable
from services.quota.domain.checks import Check, Mode, Subject
from services.quota.domain.decisions import Outcome
from services.quota.domain.maxima import CHECKS_TOGETHER_MAX, COUNTERS_TOGETHER_MAX
from services.quota.domain.terms import Terms
from tests.unit.quota.house import House
from tests.unit.quota.samples import MINUTES, decide_check, entitlement, minutes_limit, period_around, reserve_check


class WatchedCounters(MemoryCounters):
    """Says what it was asked, and lets a test hold its answers back or spoil a check."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.calls: list[list[str]] = []
        self.groups: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.poison = ""
        self.trouble: Exception | None = None

    async def check_groups(
        self, groups: Sequence[CheckGroup]
    ) -> Sequence[Sequence[Answer | RequestIdReused] | Exception]:
        self.groups.append([group.terms.organization_id for group in groups])
        return await super().check_groups(groups)

    async def check_many(
        self, checks: Sequence[Check], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer | RequestIdReused]:
        self.calls.append([check.request_id or check.organization_id for check in checks])
        await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        if any(check.request_id == self.poison for check in checks if self.poison):
            raise ZeroDivisionError
        return await super().check_many(checks, terms, period_confirmed=period_confirmed)

    async def check(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer:
        if self.poison and check.request_id == self.poison:
            raise ZeroDivisionError
        return await super().check(check, terms, period_confirmed=period_confirmed)


class Stage:
    """Organizations that may use 10, and a process that asks for them."""

    def __init__(self, *, together_max: int = 8, calls_max: int = 8, window_seconds: float = 0.0) -> None:
        self.clock = FakeClock()
        self.counters = WatchedCounters(self.clock)
        self.together = CheckTogether(
            self.counters, together_max=together_max, calls_max=calls_max, window_seconds=window_seconds
        )
        self._terms: dict[str, Terms] = {}

    async def settle(self, organization_id: str) -> None:
        house = House(self.counters, organization_id)
        period = period_around(self.clock.now())
        house.plans.set(entitlement(organization_id, minutes_limit(10), period=period))
        await house.list(organization_id)
        self._terms[organization_id] = await house.terms(organization_id)
        self.counters.calls.clear()

    def ask(self, check: Check) -> asyncio.Task[Answer]:
        return asyncio.create_task(self.together.check(check, self._terms[check.organization_id]))


@pytest.fixture
async def stage() -> Stage:
    stage = Stage()
    await stage.settle("acme")
    return stage


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def reserve(name: str, organization_id: str = "acme") -> Check:
    return reserve_check(organization_id, {MINUTES: 1}, request_id=name)


async def test_the_first_check_goes_at_once_and_those_that_come_meanwhile_go_together(stage: Stage) -> None:
    stage.counters.gate.clear()
    first = stage.ask(reserve("a"))
    await turns()
    assert stage.counters.calls == [["a"]]
    others = [stage.ask(reserve(name)) for name in "bcd"]
    await turns()
    assert stage.counters.calls == [["a"]]
    stage.counters.gate.set()
    await asyncio.gather(first, *others)
    assert stage.counters.calls == [["a"], ["b", "c", "d"]]


async def test_checks_are_decided_in_the_order_in_which_they_came_and_never_beyond_the_limit(stage: Stage) -> None:
    answers = await asyncio.gather(*(stage.ask(reserve(f"r{number:02}")) for number in range(30)))
    assert [answer.decision.is_denied for answer in answers] == [False] * 10 + [True] * 20
    assert all(len(call) <= 8 for call in stage.counters.calls)


async def test_one_organization_that_asks_for_much_delays_another_by_one_call() -> None:
    crowded = Stage(calls_max=1)
    await crowded.settle("acme")
    await crowded.settle("other")
    crowded.counters.gate.clear()
    waiting = [crowded.ask(reserve(f"r{number}")) for number in range(40)]
    await turns()
    waiting.append(crowded.ask(reserve("mine", "other")))
    await turns()
    crowded.counters.gate.set()
    await asyncio.gather(*waiting)
    assert crowded.counters.calls[1] == ["mine"]


async def test_what_fails_in_one_check_fails_it_alone(stage: Stage) -> None:
    stage.counters.poison = "c"
    outcomes = await asyncio.gather(*(stage.ask(reserve(name)) for name in "abcd"), return_exceptions=True)
    assert [isinstance(outcome, ZeroDivisionError) for outcome in outcomes] == [False, False, True, False]


async def test_a_call_that_one_organization_breaks_is_decided_for_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Sequence[CheckGroup]) -> Sequence[Sequence[Answer | RequestIdReused] | Exception]:
        raise ZeroDivisionError

    await stage.settle("other")
    stage.counters.poison = "bad"
    monkeypatch.setattr(stage.counters, "check_groups", broken)
    outcomes = await asyncio.gather(
        stage.ask(reserve("bad")), stage.ask(reserve("good", "other")), return_exceptions=True
    )
    assert isinstance(outcomes[0], ZeroDivisionError)
    assert isinstance(outcomes[1], Answer)


async def test_a_request_id_that_is_reused_is_refused_alone(stage: Stage) -> None:
    await stage.ask(reserve("a"))
    reused = reserve_check("acme", {MINUTES: 2}, request_id="a")
    outcomes = await asyncio.gather(stage.ask(reused), stage.ask(reserve("b")), return_exceptions=True)
    assert isinstance(outcomes[0], RequestIdReused)
    assert isinstance(outcomes[1], Answer)


async def test_a_consumption_without_an_id_is_never_counted_twice_because_another_check_broke_the_call(
    stage: Stage,
) -> None:
    stage.counters.poison = "bad"
    consumption = Check(
        request_id="",
        subject=reserve("x").subject,
        consumptions=reserve("x").consumptions,
        mode=Mode.CONSUME,
        reserve_us=0,
    )
    stage.counters.gate.clear()
    first = stage.ask(reserve("a"))
    await turns()
    outcomes = asyncio.gather(stage.ask(consumption), stage.ask(reserve("bad")), return_exceptions=True)
    stage.counters.gate.set()
    await first
    assert all(isinstance(outcome, ZeroDivisionError) for outcome in await outcomes)


async def test_a_caller_that_gives_up_takes_nothing_from_the_others(stage: Stage) -> None:
    stage.counters.gate.clear()
    first = stage.ask(reserve("a"))
    await turns()
    others = {name: stage.ask(reserve(name)) for name in "bcd"}
    await turns()
    first.cancel()
    others["c"].cancel()
    await turns()
    stage.counters.gate.set()
    assert (await others["b"]).decision.outcome is Outcome.ALLOWED
    assert (await others["d"]).decision.outcome is Outcome.ALLOWED
    assert stage.counters.calls == [["a"], ["b", "d"]]


async def test_a_store_that_is_away_is_said_to_everyone_who_waits_for_that_call(stage: Stage) -> None:
    stage.counters.trouble = DependencyUnavailable(dependency="Redis")
    outcomes = await asyncio.gather(*(stage.ask(reserve(name)) for name in "abc"), return_exceptions=True)
    assert all(isinstance(outcome, DependencyUnavailable) for outcome in outcomes)
    stage.counters.trouble = None
    assert (await stage.ask(reserve("d"))).decision.outcome is Outcome.ALLOWED


async def test_a_store_that_is_known_to_be_away_is_not_asked_and_leaves_nobody_waiting(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise StoreUnavailable(dependency="Redis")

    monkeypatch.setattr(stage.counters, "refuse_while_away", refuse)
    with pytest.raises(StoreUnavailable):
        stage.together.begin(reserve("a"), stage._terms["acme"])
    assert not stage.together._groups
    assert stage.counters.calls == []


async def test_nothing_is_left_behind_when_all_are_answered(stage: Stage) -> None:
    await asyncio.gather(*(stage.ask(decide_check("acme", {MINUTES: 1})) for _ in range(20)))
    await turns()
    assert not stage.together._groups
    assert not stage.together._line
    assert not stage.together._calls


async def test_checks_of_many_counters_go_in_more_calls_however_they_come() -> None:
    stage = Stage(together_max=CHECKS_TOGETHER_MAX)
    await stage.settle("acme")
    parts = Subject(organization_id="acme", project_id="p", team_id="t", user_id="u", agent_id="a", task_id="k")
    checks = [replace(reserve(f"r{number:03}"), subject=parts) for number in range(200)]
    at_most = COUNTERS_TOGETHER_MAX // checks[0].counters_count
    await asyncio.gather(*(stage.ask(check) for check in checks))
    assert max(map(len, stage.counters.calls)) == at_most < CHECKS_TOGETHER_MAX
    house = House(stage.counters, "acme")
    stage.counters.calls.clear()
    assert [isinstance(answer, Answer) for answer in await house.check_batch(checks)] == [True] * len(checks)
    assert max(map(len, stage.counters.calls)) == at_most
    assert [name for call in stage.counters.calls for name in call] == [check.request_id for check in checks]


async def test_checks_of_several_organizations_go_in_one_call() -> None:
    stage = Stage()
    for name in ("acme", "other", "third"):
        await stage.settle(name)
    stage.counters.groups.clear()
    await asyncio.gather(*(stage.ask(reserve("r1", name)) for name in ("acme", "other", "acme", "third")))
    assert stage.counters.groups == [["acme", "other", "third"]]


async def test_a_check_that_nobody_came_before_waits_for_no_window() -> None:
    stage = Stage(window_seconds=3_600)
    await stage.settle("acme")
    async with asyncio.timeout(5):
        await stage.ask(reserve("a"))


async def test_checks_that_come_within_the_window_wait_for_its_end_and_go_together() -> None:
    stage = Stage(window_seconds=0.5)
    await stage.settle("acme")
    await stage.settle("other")
    await stage.ask(reserve("a"))
    waiting = [stage.ask(reserve("b"))]
    await turns()
    waiting += [stage.ask(reserve("c")), stage.ask(reserve("d", "other"))]
    await turns()
    assert stage.counters.calls == [["a"]]
    await asyncio.gather(*waiting)
    assert stage.counters.calls == [["a"], ["b", "c"], ["d"]]
    assert stage.counters.groups == [["acme"], ["acme", "other"]]
