from __future__ import annotations

import asyncio

import pytest

from tests.unit.sdk.stage import AWAY, Stage, rest, stage
from tollbook.metering.v1 import metering_pb2, task_time_pb2
from tollbook_sdk.buffer import Waiting
from tollbook_sdk.decision import OnUnavailable
from tollbook_sdk.errors import BufferFull, QuotaDenied
from tollbook_sdk.settings import Settings
from tollbook_sdk.tasks import TaskRun

_SUCCEEDED = metering_pb2.TASK_OUTCOME_SUCCEEDED


async def begun(at: Stage, **reserve: int) -> TaskRun:
    return await at.tasks.begin(at.plan("task-1", seconds=60.0, **reserve), 0.05)


def stopped_by(run: TaskRun) -> str:
    """Why it may not go on; empty: it may."""
    return "" if run.exhausted is None else run.exhausted.reason


async def test_a_task_is_held_for_before_it_begins_and_billed_to_the_millisecond_when_it_ends() -> None:
    async with stage({"agent_minutes": 100_000, "concurrent_agents": 1}) as at:
        run = await begun(at, concurrent_agents=1)
        assert (at.suite.held("agent_minutes"), at.suite.held("concurrent_agents")) == (60_000, 1)
        await at.clock.advance(34.567)
        at.tasks.end(run, _SUCCEEDED)
        await rest()
        assert at.suite.used["agent_minutes"] == 34_567
        assert (at.suite.held("agent_minutes"), at.suite.held("concurrent_agents")) == (0, 0)
        assert list(at.suite.events.values())[-1].task_outcome == _SUCCEEDED


async def test_a_denied_task_does_not_begin_and_holds_nothing() -> None:
    async with stage({"agent_minutes": 100_000, "concurrent_agents": 1}) as at:
        await begun(at, concurrent_agents=1)
        with pytest.raises(QuotaDenied) as raised:
            await at.tasks.begin(at.plan("task-2", concurrent_agents=1), 0.05)
        assert raised.value.reason == "CONCURRENCY"
        assert raised.value.limit is not None
        assert raised.value.limit.meter == "concurrent_agents"
        await rest()
        assert list(at.suite.tasks) == ["task-1"]
        assert at.suite.held("agent_minutes") == 60_000


async def test_a_task_within_its_estimate_holds_no_more_than_the_estimate() -> None:
    async with stage({"agent_minutes": 60_000}) as at:
        at.suite.is_lagging = True
        run = await begun(at)
        for _ in range(3):
            await at.clock.advance(10)
            assert at.suite.used["agent_minutes"] + at.suite.held("agent_minutes") == 60_000
        assert stopped_by(run) == ""


async def test_a_task_that_outruns_its_estimate_holds_two_heartbeats_ahead_until_the_limit_then_is_stopped() -> None:
    async with stage({"agent_minutes": 120_000}) as at:
        told: list[bool] = []
        run = await begun(at)
        run.on_exhausted(lambda: told.append(True))
        await at.clock.advance(119)
        assert (stopped_by(run), told) == ("", [])
        await at.clock.advance(1)
        assert (stopped_by(run), told) == ("LIMIT_REACHED", [True])
        at.tasks.end(run, metering_pb2.TASK_OUTCOME_CANCELLED)
        await rest()
        assert at.suite.used["agent_minutes"] == 120_000
        assert at.suite.held("agent_minutes") == 0


async def test_a_process_that_is_killed_is_billed_to_its_last_report_and_its_hold_ends() -> None:
    async with stage({"agent_minutes": 600_000, "concurrent_agents": 1}) as at:
        run = await begun(at, concurrent_agents=1)
        await at.clock.advance(25)
        assert run.heart is not None
        run.heart.cancel()  # all that a kill leaves of it
        await at.clock.advance(60)
        assert at.suite.used["agent_minutes"] == 20_000
        assert (at.suite.held("agent_minutes"), at.suite.held("concurrent_agents")) == (0, 0)


async def test_a_task_allowed_while_the_suite_was_away_is_registered_and_billed_in_whole_when_it_is_back() -> None:
    async with stage({"agent_minutes": 600_000, "concurrent_agents": 5}) as at:
        at.suite.failure = AWAY
        beginning = asyncio.ensure_future(begun(at, concurrent_agents=1))
        await at.clock.advance(0.05)
        run = await beginning
        assert (run.decision.degraded, run.reservation_id) == (True, "hold-task-1")
        await at.clock.advance(55)
        at.suite.failure = None
        await at.clock.advance(10)
        assert at.suite.held("concurrent_agents") == 1
        await at.clock.advance(60)
        at.tasks.end(run, _SUCCEEDED)
        await rest()
        assert at.suite.used["agent_minutes"] == 125_000
        assert {event.reservation_id for event in at.suite.events.values()} == {"hold-task-1"}


async def test_under_the_policy_deny_a_task_stops_when_its_hold_has_ended_and_not_before() -> None:
    async with stage({}, on_unavailable=OnUnavailable.DENY) as at:
        run = await begun(at)
        at.suite.failure = AWAY
        await at.clock.advance(50)
        assert stopped_by(run) == ""
        await at.clock.advance(20)
        assert stopped_by(run) == "STORE_UNAVAILABLE"


async def test_under_the_policy_allow_a_task_outlives_any_absence() -> None:
    async with stage({}) as at:
        run = await begun(at)
        at.suite.failure = AWAY
        await at.clock.advance(1_000)
        assert stopped_by(run) == ""


async def test_what_was_reserved_besides_time_is_held_until_it_was_used_or_the_task_ends() -> None:
    async with stage({"tokens_output": 1_000}) as at:
        run = await begun(at, tokens_output=600)
        run.note_recorded({"tokens_output": 250})
        await at.clock.advance(30)
        # Not drawn by any event yet: still held in whole.
        assert at.suite.held("tokens_output") == 600
        assert run.target(20)["tokens_output"] == 350


async def test_a_hold_that_was_lost_returns_with_the_next_heartbeat() -> None:
    async with stage({"agent_minutes": 600_000, "concurrent_agents": 1}) as at:
        await begun(at, concurrent_agents=1)
        await at.clock.advance(5)
        at.suite.lose_counters()
        assert at.suite.held("concurrent_agents") == 0
        await at.clock.advance(10)
        assert at.suite.held("concurrent_agents") == 1


async def test_a_task_whose_time_cannot_be_written_down_does_not_begin() -> None:
    async with stage({"concurrent_agents": 1}, buffer_events_max=1) as at:
        at.stop()  # nobody sends: the buffer stays full
        at.buffer.put(Waiting(task_time_pb2.ReportTaskTimeRequest()))
        with pytest.raises(BufferFull):
            await begun(at, concurrent_agents=1)
        await rest()
        assert at.suite.held("concurrent_agents") == 0


async def test_ending_twice_ends_once_and_a_task_that_ended_reports_no_more() -> None:
    async with stage({}) as at:
        run = await begun(at)
        at.tasks.end(run, _SUCCEEDED)
        at.tasks.end(run, metering_pb2.TASK_OUTCOME_FAILED)
        at.tasks.abandon(run.reservation_id)
        await at.clock.advance(100)
        assert at.suite.calls.count("report") == 2
        assert at.suite.calls.count("extend") == 0


async def test_reports_are_dated_by_one_clock_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage({}) as at:
        run = await begun(at)
        monkeypatch.setattr(at.clock, "wall_ns", lambda: 0)
        await at.clock.advance(30)
        at.tasks.end(run, _SUCCEEDED)
        await rest()
        assert at.suite.tasks["task-1"].total_ms() == 30_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"heartbeat_seconds": 21.0, "task_hold_seconds": 60.0},
        {"heartbeat_seconds": 10.0, "task_hold_seconds": 10.0},
        {"check_budget_seconds": 0.0},
        {"buffer_events_max": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"seconds|events"):
        Settings(quota="q:1", metering="m:1", **wrong)  # type: ignore[arg-type]  # each case names its own
