from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.sdk.stage import AWAY
from tollbook.metering.v1 import metering_pb2
from tollbook_sdk import (
    AsyncTollbook,
    BufferFull,
    ClientClosed,
    LostUsage,
    QuotaDenied,
    QuotaExhausted,
    Settings,
    Subject,
    Tollbook,
    UsedAcrossFork,
)
from tollbook_sdk.memory import MemorySuite

_LONG = 60.0
_SHORT = timedelta(milliseconds=1)


def settings(**changed: object) -> Settings:
    return Settings(quota="q:1", metering="m:1", check_budget_seconds=_LONG, **changed)  # type: ignore[arg-type]


def quick(**changed: object) -> Settings:
    """Heartbeats that come at once, for tests that wait for what one of them brings."""
    return settings(heartbeat_seconds=0.01, task_hold_seconds=1.0, **changed)


@pytest.fixture
def suite() -> MemorySuite:
    return MemorySuite({"agent_minutes": 600_000, "concurrent_agents": 2, "api_calls": 1_000})


@pytest.fixture
def client(suite: MemorySuite) -> Iterator[Tollbook]:
    with Tollbook(settings(), suite=suite) as made:
        yield made


def outcomes(suite: MemorySuite) -> list[int]:
    return [each.task_outcome for each in suite.events.values() if each.task_outcome]


# ---- threads


def test_a_task_is_held_for_metered_and_settled(client: Tollbook, suite: MemorySuite) -> None:
    with client.metered_task(Subject(task_id="t-1"), estimate=timedelta(minutes=2)) as task:
        assert (task.task_id, suite.held("agent_minutes"), suite.held("concurrent_agents")) == ("t-1", 120_000, 1)
        client.record({"api_calls": 3})
    assert client.flush(_LONG)
    assert (suite.recorded("api_calls"), outcomes(suite)) == (3, [metering_pb2.TASK_OUTCOME_SUCCEEDED])
    assert (suite.held("agent_minutes"), suite.held("concurrent_agents")) == (0, 0)
    (event,) = (each for each in suite.events.values() if each.source == "tollbook-sdk")
    assert (event.subject.task_id, event.reservation_id) == ("t-1", task.reservation_id)


def test_a_task_that_raises_is_settled_as_failed_and_the_error_goes_on(client: Tollbook, suite: MemorySuite) -> None:
    with pytest.raises(ZeroDivisionError), client.metered_task():
        raise ZeroDivisionError
    client.flush(_LONG)
    assert outcomes(suite) == [metering_pb2.TASK_OUTCOME_FAILED]
    assert suite.held("concurrent_agents") == 0


def test_a_denied_task_does_not_run(client: Tollbook, suite: MemorySuite) -> None:
    with (
        client.metered_task(),
        client.metered_task(),
        pytest.raises(QuotaDenied, match="CONCURRENCY") as raised,
        client.metered_task(),
    ):
        pytest.fail("it ran")
    assert raised.value.limit is not None
    assert raised.value.limit.meter == "concurrent_agents"
    assert len(suite.reservations) == 2


def test_as_a_decorator_every_call_is_a_task_of_its_own(client: Tollbook, suite: MemorySuite) -> None:
    @client.metered_task(reserve={})
    def double(number: int) -> int:
        client.record({"api_calls": number})
        return 2 * number

    assert [double(number) for number in (1, 2, 3)] == [2, 4, 6]
    client.flush(_LONG)
    assert len(suite.tasks) == 3
    assert suite.recorded("api_calls") == 6


def test_a_thread_whose_task_may_not_go_on_learns_so_and_what_it_records_then_still_counts() -> None:
    suite = MemorySuite({"agent_minutes": 1})
    stopped = threading.Event()

    def work(client: Tollbook) -> None:
        with client.metered_task(estimate=_SHORT, reserve={}) as task:
            task.on_exhausted(stopped.set)
            assert stopped.wait(_LONG)
            assert task.is_exhausted
            with pytest.raises(QuotaExhausted):
                task.check()
            client.record({"api_calls": 5})

    with Tollbook(quick(), suite=suite) as client, pytest.raises(QuotaExhausted, match="LIMIT_REACHED"):
        work(client)
    assert suite.recorded("api_calls") == 5
    assert outcomes(suite) == [metering_pb2.TASK_OUTCOME_CANCELLED]


def test_one_client_serves_many_threads(client: Tollbook, suite: MemorySuite) -> None:
    def work() -> None:
        for _ in range(20):
            with client.metered_task(estimate=_SHORT, reserve={}):
                client.record({"api_calls": 1})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.flush(_LONG)
    assert suite.recorded("api_calls") == 160
    assert len(suite.tasks) == len(outcomes(suite)) == 160
    assert suite.held("agent_minutes") == 0


def test_a_task_that_is_dropped_without_leaving_is_ended(client: Tollbook, suite: MemorySuite) -> None:
    dropped = client.metered_task()
    dropped.__enter__()
    del dropped
    gc.collect()
    client.flush(_LONG)
    assert outcomes(suite) == [metering_pb2.TASK_OUTCOME_CANCELLED]


def test_closing_ends_what_runs_and_sends_what_waits(suite: MemorySuite) -> None:
    client = Tollbook(settings(), suite=suite)
    task = client.metered_task()
    task.__enter__()
    lease = client.lease("api_calls", 10)
    assert lease.try_spend(4, "t-1")
    assert client.close(_LONG)
    assert outcomes(suite) == [metering_pb2.TASK_OUTCOME_CANCELLED]
    assert (suite.recorded("api_calls"), suite.held("api_calls"), suite.held("concurrent_agents")) == (4, 0, 0)
    assert not lease.try_spend(1)
    with pytest.raises(ClientClosed):
        client.record({"api_calls": 1})
    task.__exit__(None, None, None)


def test_usage_that_could_not_be_sent_before_closing_is_handed_back(suite: MemorySuite) -> None:
    lost: list[LostUsage] = []
    client = Tollbook(settings(on_lost=lost.append), suite=suite)
    suite.failure = AWAY
    client.record({"api_calls": 1}, event_id="e-1")
    assert not client.close(0.01)
    assert [(each.reason, each.usage.id) for each in lost if isinstance(each.usage, metering_pb2.UsageEvent)] == [
        ("CLOSED", "e-1")
    ]


def test_usage_that_could_not_be_sent_before_closing_stays_on_disk_for_the_next_client(
    suite: MemorySuite, tmp_path: Path
) -> None:
    lost: list[LostUsage] = []
    spooling = settings(on_lost=lost.append, spool_folder=tmp_path)
    client = Tollbook(spooling, suite=suite)
    suite.failure = AWAY
    for number in range(1_500):
        client.record({"api_calls": 1}, event_id=f"e-{number}")
    assert not client.close(0.01)
    suite.failure = None
    again = Tollbook(spooling, suite=suite)
    again.start()
    assert again.flush(_LONG)
    assert again.close(_LONG)
    assert (suite.recorded("api_calls"), lost, list(tmp_path.iterdir())) == (1_500, [], [])


def test_a_model_call_that_cannot_be_recorded_still_gives_its_answer(suite: MemorySuite) -> None:
    lost: list[LostUsage] = []
    with Tollbook(settings(on_lost=lost.append, buffer_events_max=1), suite=suite) as client:
        suite.failure = AWAY
        client.record({"api_calls": 1})
        create = client.watch_openai(lambda: {"usage": {"prompt_tokens": 3, "completion_tokens": 2}})
        assert create() == {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}
        assert [each.reason for each in lost] == ["BUFFER_FULL"]
        with pytest.raises(BufferFull):
            client.record({"api_calls": 1})
        suite.failure = None


def test_a_model_call_within_a_task_is_the_tasks_and_draws_its_reservation(
    client: Tollbook, suite: MemorySuite
) -> None:
    usage = {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 4}
    create = client.watch_anthropic(lambda: {"model": "claude", "usage": usage})
    with client.metered_task(Subject(task_id="t-1"), reserve={"tokens_output": 10}):
        create()
        create()
    client.flush(_LONG)
    calls = [each for each in suite.events.values() if each.HasField("provider_call")]
    assert [(each.subject.task_id, each.provider_call.provider) for each in calls] == [("t-1", "anthropic")] * 2
    assert {each.meter: each.quantity for each in calls[0].measurements} == {
        "api_calls": 1,
        "tokens_input": 7,
        "tokens_cache_read": 3,
        "tokens_output": 4,
    }
    assert suite.held("tokens_output") == 0


def test_a_client_in_use_at_a_fork_says_so_in_the_child_and_goes_on_in_the_parent(
    client: Tollbook, suite: MemorySuite
) -> None:
    client.record({"api_calls": 1})
    unused = Tollbook(settings(), suite=MemorySuite())
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        code = 1
        try:
            client.record({"api_calls": 1})
        except UsedAcrossFork:
            unused.record({"api_calls": 1})
            code = 0 if unused.flush(_LONG) and client.close() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    client.record({"api_calls": 1})
    client.flush(_LONG)
    assert suite.recorded("api_calls") == 2
    unused.close()


# ---- asyncio


async def test_an_asyncio_task_that_may_not_go_on_is_cancelled_and_leaves_with_the_reason() -> None:
    suite = MemorySuite({"agent_minutes": 1})
    async with AsyncTollbook(quick(), suite=suite) as client:
        with pytest.raises(QuotaExhausted, match="LIMIT_REACHED"):
            async with client.metered_task(estimate=_SHORT, reserve={}):
                await asyncio.get_running_loop().create_future()
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]  # a test is a task
        assert await client.flush(_LONG)
    assert outcomes(suite) == [metering_pb2.TASK_OUTCOME_CANCELLED]


async def test_a_task_that_others_cancel_stays_cancelled(suite: MemorySuite) -> None:
    async with AsyncTollbook(settings(), suite=suite) as client:
        begun = asyncio.Event()

        async def work() -> None:
            async with client.metered_task():
                begun.set()
                await asyncio.get_running_loop().create_future()

        working = asyncio.ensure_future(work())
        await begun.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert await client.flush(_LONG)
    assert outcomes(suite) == [metering_pb2.TASK_OUTCOME_CANCELLED]
    assert suite.held("concurrent_agents") == 0


async def test_a_caller_that_is_cancelled_on_its_way_in_leaves_no_task_running(suite: MemorySuite) -> None:
    async with AsyncTollbook(settings(), suite=suite) as client:
        for turns in range(30):

            async def work() -> None:
                async with client.metered_task(estimate=_SHORT, reserve={}):
                    await asyncio.get_running_loop().create_future()

            working = asyncio.ensure_future(work())
            for _ in range(turns):
                await asyncio.sleep(0)
            working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working
        assert await client.flush(_LONG)
        # One that had not begun yet says nothing; one that had, ended.
        assert len(outcomes(suite)) == len(suite.tasks)
        assert suite.held("agent_minutes") == 0


async def test_coroutines_side_by_side_are_tasks_of_their_own(suite: MemorySuite) -> None:
    async with AsyncTollbook(settings(), suite=suite) as client:

        @client.metered_task(estimate=_SHORT, reserve={})
        async def work(number: int) -> int:
            await asyncio.sleep(0)
            client.record({"api_calls": number})
            return number

        assert await asyncio.gather(*(work(number) for number in range(20))) == list(range(20))
        assert await client.flush(_LONG)
    events = [each for each in suite.events.values() if each.source == "tollbook-sdk"]
    by_task = {each.subject.task_id: each.measurements[0].quantity for each in events}
    assert sorted(by_task.values()) == list(range(20))


async def test_a_denial_is_an_answer_and_a_degraded_one_says_so(suite: MemorySuite) -> None:
    async with AsyncTollbook(settings(), suite=suite) as client:
        assert (await client.check({"api_calls": 1_000})).allowed
        denied = await client.check({"api_calls": 1_001})
        assert (denied.allowed, denied.reason, denied.left_of("api_calls")) == (False, "LIMIT_REACHED", 1_000)
        suite.failure = AWAY
        assert (await client.check({"api_calls": 1}, budget=timedelta(milliseconds=5))).degraded
        suite.failure = None


async def test_one_client_serves_several_loops(suite: MemorySuite) -> None:
    async with AsyncTollbook(settings(), suite=suite) as client:

        async def work() -> bool:
            async with client.metered_task(reserve={}):
                return (await client.check({"api_calls": 1})).allowed

        answers = await asyncio.gather(*(asyncio.to_thread(lambda: asyncio.run(work())) for _ in range(4)))
        assert answers == [True] * 4


def test_a_task_id_of_the_callers_is_kept_and_one_is_made_otherwise(client: Tollbook) -> None:
    given = Subject(project_id="p-1")
    with client.metered_task(given) as one, client.metered_task(given) as other:
        assert one.task_id != other.task_id
        assert given.task_id == ""


def test_a_metered_task_is_entered_once(client: Tollbook) -> None:
    task = client.metered_task()
    with task, pytest.raises(RuntimeError, match="once"):
        task.__enter__()
