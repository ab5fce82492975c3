from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.unit.sdk.stage import AWAY, Stage, rest, stage
from tollbook.metering.v1 import metering_pb2, task_time_pb2
from tollbook.metering.v1.metering_pb2 import Subject
from tollbook_sdk.buffer import Delivered, Usage, UsageBuffer, Waiting
from tollbook_sdk.delivery import BATCH_EVENTS_MAX, STREAM_BATCHES_MAX, STREAM_REST_SECONDS, backoff_seconds
from tollbook_sdk.errors import BufferFull, ClientClosed
from tollbook_sdk.settings import LostUsage
from tollbook_sdk.spool import Spool
from tollbook_sdk.suite import CallFailed

_PATIENCE_SECONDS = 60.0


def event(name: str, quantity: int = 1) -> metering_pb2.UsageEvent:
    measurement = metering_pb2.Measurement(meter="api_calls", quantity=quantity)
    return metering_pb2.UsageEvent(id=name, source="tests", measurements=[measurement])


def waiting(name: str) -> Waiting:
    return Waiting(event(name))


def report(seconds: int, task: str = "task-1") -> Waiting:
    message = task_time_pb2.ReportTaskTimeRequest(
        subject=Subject(task_id=task), phase=task_time_pb2.TASK_PHASE_HEARTBEAT
    )
    message.report_time.FromSeconds(seconds)
    return Waiting(message)


async def test_what_is_recorded_while_the_suite_is_away_is_counted_once_when_it_is_back() -> None:
    async with stage() as at:
        at.suite.failure = AWAY
        for number in range(2 * BATCH_EVENTS_MAX + 1):
            at.buffer.put(waiting(f"e-{number}"))
        await at.clock.advance(120)
        assert at.suite.events == {}
        at.suite.failure = None
        await at.clock.advance(60)
        assert [identity[1] for identity in at.suite.events] == [f"e-{n}" for n in range(2 * BATCH_EVENTS_MAX + 1)]
        counts = at.buffer.counts()
        assert (counts.waiting, counts.recorded, counts.refused) == (0, 2 * BATCH_EVENTS_MAX + 1, 0)


async def test_an_acknowledgement_that_is_lost_counts_nothing_twice() -> None:
    async with stage() as at:
        at.suite.failure, at.suite.loses_answers = AWAY, True
        at.buffer.put(waiting("a"))
        at.buffer.put(report(0))
        at.buffer.put(report(10))
        await at.clock.advance(30)
        at.suite.failure = None
        await at.clock.advance(30)
        assert (at.suite.recorded("api_calls"), at.suite.recorded("agent_minutes")) == (1, 10_000)
        assert at.buffer.counts().waiting == 0


BACKLOG = 2 * BATCH_EVENTS_MAX + 7
CUT_OFF = CallFailed("UNAVAILABLE", message="stream reset")


def names(at: Stage) -> list[str]:
    return [name for _, name in at.suite.events]


async def test_what_fits_in_a_batch_goes_by_itself_and_a_backlog_in_one_stream() -> None:
    async with stage() as at:
        for number in range(BATCH_EVENTS_MAX):
            at.buffer.put(waiting(f"few-{number}"))
        await at.clock.advance(1)
        assert at.suite.calls == ["record"]
        at.suite.calls.clear()
        for number in range(STREAM_BATCHES_MAX * BATCH_EVENTS_MAX + 1):
            at.buffer.put(waiting(f"many-{number}"))
        await at.clock.advance(1)
        assert at.suite.calls == ["stream", "record"]
        assert at.buffer.counts().recorded == len(at.suite.events) == 9 * BATCH_EVENTS_MAX + 1


@pytest.mark.parametrize("answered", [0, 1, 2])
@pytest.mark.parametrize("loses_answers", [False, True])
async def test_a_stream_that_breaks_counts_nothing_twice_and_the_rest_goes_by_batches_for_a_while(
    answered: int,
    loses_answers: bool,  # noqa: FBT001
) -> None:
    async with stage() as at:
        at.suite.stream_failure, at.suite.batches_before_stream_failure = CUT_OFF, answered
        at.suite.loses_answers = loses_answers
        for number in range(BACKLOG):
            at.buffer.put(waiting(f"e-{number}"))
        await at.clock.advance(1)
        assert names(at) == [f"e-{number}" for number in range(BACKLOG)]
        assert (at.buffer.counts().recorded, at.buffer.counts().refused) == (BACKLOG, 0)
        assert at.suite.calls == ["stream"] + ["record"] * (3 - answered)
        at.suite.calls.clear()
        for number in range(BACKLOG):
            at.buffer.put(waiting(f"later-{number}"))
        await at.clock.advance(1)
        assert at.suite.calls == ["record"] * 3
        at.suite.calls.clear()
        at.suite.stream_failure = None
        await at.clock.advance(STREAM_REST_SECONDS)
        for number in range(BACKLOG):
            at.buffer.put(waiting(f"last-{number}"))
        await at.clock.advance(1)
        assert at.suite.calls == ["stream"]


async def test_where_there_are_no_streams_the_same_attempt_goes_by_batches() -> None:
    async with stage() as at:
        at.suite.stream_failure = CallFailed("UNIMPLEMENTED", message="no such method")
        for number in range(BACKLOG):
            at.buffer.put(waiting(f"e-{number}"))
        await rest()
        assert at.suite.calls == ["stream", "record", "record", "record"]
        assert (at.buffer.counts().waiting, at.delivery.failures) == (0, 0)


async def test_an_event_that_ends_a_stream_is_found_and_the_others_are_recorded() -> None:
    async with stage() as at:
        bad = CallFailed("PERMISSION_DENIED", "ORGANIZATION_MISMATCH", "another's")
        at.suite.stream_failure, at.suite.batches_before_stream_failure = bad, 1
        record = at.suite.record

        async def picky(
            request: metering_pb2.RecordUsageRequest, *, seconds: float
        ) -> metering_pb2.RecordUsageResponse:
            if any(each.id == "e-700" for each in request.events):
                raise bad
            return await record(request, seconds=seconds)

        at.suite.record = picky  # type: ignore[method-assign]
        for number in range(BACKLOG):
            at.buffer.put(waiting(f"e-{number}"))
        await rest()
        assert sorted(names(at)) == sorted(f"e-{number}" for number in range(BACKLOG) if number != 700)
        assert [lost.usage for lost in at.lost] == [event("e-700")]


async def test_what_a_stream_refuses_is_reported_and_what_it_takes_bears_a_sequence_no_earlier_than_its_own() -> None:
    async with stage() as at:
        at.buffer.put(waiting("e-600"))
        await rest()
        told: dict[int, Delivered] = {}
        for number in range(BACKLOG):
            usage = event(f"e-{number}", quantity=2 if number == 600 else 1)
            at.buffer.put(Waiting(usage, on_delivered=partial(told.__setitem__, number)))
        await rest()
        assert at.suite.calls == ["record", "stream"]
        assert told.pop(600).refused == "CONTENT_CONFLICT"
        ledger = {name: sequence for sequence, name in enumerate(names(at), start=1)}
        assert len(told) == BACKLOG - 1
        assert all(ledger[f"e-{n}"] <= each.sequence <= len(ledger) for n, each in told.items())


async def test_events_of_several_organizations_go_by_batches_whose_sequences_are_each_ones_own() -> None:
    async with stage() as at:
        for number in range(BACKLOG):
            usage = event(f"e-{number}")
            usage.subject.organization_id = f"org-{number % 2}"
            at.buffer.put(Waiting(usage))
        await rest()
        assert at.suite.calls == ["record"] * 3


async def test_a_full_buffer_refuses_counts_and_says_so_and_keeps_what_it_has() -> None:
    async with stage(buffer_events_max=2) as at:
        at.suite.failure = AWAY
        at.buffer.put(waiting("a"))
        at.buffer.put(waiting("b"))
        with pytest.raises(BufferFull):
            at.buffer.put(waiting("c"))
        assert [(lost.reason, lost.usage) for lost in at.lost] == [("BUFFER_FULL", event("c"))]
        at.suite.failure = None
        await at.clock.advance(1)
        assert [identity[1] for identity in at.suite.events] == ["a", "b"]
        assert at.buffer.counts().turned_away == 1


async def test_what_is_being_sent_still_counts_against_the_bound() -> None:
    buffer = UsageBuffer(1)
    buffer.put(waiting("a"))
    assert len(buffer.take(10, 1000)) == 1
    with pytest.raises(BufferFull):
        buffer.put(waiting("b"))


async def test_a_refused_event_is_reported_and_does_not_hold_up_the_others() -> None:
    async with stage() as at:
        at.buffer.put(waiting("a"))
        await at.clock.advance(1)
        at.buffer.put(Waiting(event("a", quantity=2)))
        at.buffer.put(waiting("b"))
        await at.clock.advance(1)
        assert [(lost.reason, lost.usage) for lost in at.lost] == [("CONTENT_CONFLICT", event("a", quantity=2))]
        assert at.suite.recorded("api_calls") == 2
        assert at.buffer.counts().refused == 1


async def test_one_event_that_spoils_its_batch_is_found_and_the_others_are_recorded() -> None:
    async with stage() as at:
        record = at.suite.record

        async def picky(
            request: metering_pb2.RecordUsageRequest, *, seconds: float
        ) -> metering_pb2.RecordUsageResponse:
            if any(each.id == "bad" for each in request.events):
                raise CallFailed("PERMISSION_DENIED", "ORGANIZATION_MISMATCH", "another's")
            return await record(request, seconds=seconds)

        at.suite.record = picky  # type: ignore[method-assign]  # a server that one event offends
        for name in ("a", "b", "bad", "c", "d"):
            at.buffer.put(waiting(name))
        await at.clock.advance(1)
        assert {identity[1] for identity in at.suite.events} == {"a", "b", "c", "d"}
        assert [lost.reason for lost in at.lost] == ["ORGANIZATION_MISMATCH"]


@pytest.mark.parametrize("reason", ["CREDENTIAL_INVALID", "SCOPE_MISSING"])
async def test_usage_waits_for_a_key_to_be_put_right(reason: str) -> None:
    async with stage() as at:
        code = "PERMISSION_DENIED" if reason == "SCOPE_MISSING" else "UNAUTHENTICATED"
        at.suite.failure = CallFailed(code, reason)
        at.buffer.put(waiting("a"))
        await at.clock.advance(100)
        at.suite.failure = None
        await at.clock.advance(40)
        assert (at.suite.recorded("api_calls"), at.lost) == (1, [])


async def test_attempts_are_spaced_out_and_never_sooner_than_the_server_asks() -> None:
    async with stage() as at:
        at.suite.failure = CallFailed("RESOURCE_EXHAUSTED", retry_seconds=50)
        at.buffer.put(waiting("a"))
        await at.clock.advance(49)
        assert at.suite.calls == ["record"]
        await at.clock.advance(2)
        assert at.suite.calls == ["record", "record"]


@pytest.mark.parametrize("failures", [1, 2, 5, 40, 10_000])
@pytest.mark.parametrize("asked", [None, 0.0, 3.0, 120.0])
def test_a_pause_is_no_shorter_than_asked_for_and_grows_to_half_a_minute(failures: int, asked: float | None) -> None:
    chance = random.Random(failures)
    for _ in range(50):
        seconds = backoff_seconds(failures, asked, chance.random())
        assert seconds >= (asked or 0.0)
        assert 0.05 <= seconds <= max(30.0, (asked or 0.0) * 1.5)


async def test_a_long_absence_bills_every_second_of_a_task_that_ran_on() -> None:
    async with stage() as at:
        at.suite.failure = AWAY
        for seconds in range(0, 1000, 10):
            at.buffer.put(report(seconds))
            at.buffer.put(report(seconds, "task-2"))
            await at.clock.advance(10)
        assert at.suite.tasks == {}
        at.suite.failure = None
        while at.buffer.counts().waiting:
            await at.clock.advance(10)
        assert at.suite.tasks["task-1"].total_ms() == at.suite.tasks["task-2"].total_ms() == 990_000
        assert at.suite.recorded("agent_minutes") == 2 * 990_000


async def test_reports_of_one_task_arrive_in_their_order() -> None:
    async with stage() as at:
        for seconds in (0, 10, 20, 30):
            at.buffer.put(report(seconds))
        await at.clock.advance(1)
        assert [stored.event_time.seconds for stored in at.suite.events.values()] == [0, 10, 20, 30]


async def test_a_defect_while_sending_delays_usage_and_does_not_end_it() -> None:
    async with stage() as at:
        record, failures = at.suite.record, [RuntimeError("a defect")]

        async def stumbling(
            request: metering_pb2.RecordUsageRequest, *, seconds: float
        ) -> metering_pb2.RecordUsageResponse:
            if failures:
                raise failures.pop()
            return await record(request, seconds=seconds)

        at.suite.record = stumbling  # type: ignore[method-assign]  # as a bug would
        at.buffer.put(waiting("a"))
        await at.clock.advance(60)
        assert at.suite.recorded("api_calls") == 1


def test_a_callback_that_raises_changes_nothing() -> None:
    def raising(_: LostUsage) -> None:
        raise RuntimeError

    buffer = UsageBuffer(1, raising)
    buffer.put(waiting("a"))
    with pytest.raises(BufferFull):
        buffer.put(waiting("b"))
    assert buffer.counts().turned_away == 1


def test_a_closed_buffer_hands_out_what_it_has_and_takes_nothing() -> None:
    buffer = UsageBuffer(5)
    buffer.put(waiting("a"))
    assert [item.usage for item in buffer.close()] == [event("a")]
    with pytest.raises(ClientClosed):
        buffer.put(waiting("b"))


# ---- on disk


def found(folder: Path) -> list[Usage]:
    """What a new process finds, file by file."""
    spool, usage = Spool(folder), []
    while items := spool.find():
        usage += [item.usage for item in items]
        for item in items:
            assert item.segment is not None
            item.segment.remove()
    return usage


def crash(spool: Spool) -> None:
    """As the kernel does it for a process that is killed: its locks go, its files stay."""
    spool.close()


def test_what_a_killed_process_kept_is_found_by_the_next_with_the_same_ids(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.keep([waiting("a"), report(10)])
    spool.keep([waiting("b")])
    crash(spool)
    assert found(tmp_path) == [event("a"), report(10).usage, event("b")]


def test_files_of_a_process_that_lives_are_left_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.keep([waiting("a")])
    assert Spool(tmp_path).find() == []
    crash(spool)
    assert found(tmp_path) == [event("a")]


def test_what_was_sent_leaves_no_file_behind(tmp_path: Path) -> None:
    spool, items = Spool(tmp_path), [waiting(f"e-{number}") for number in range(2_500)]
    for start in range(0, 2_500, 500):
        spool.keep(items[start : start + 500])
    assert len(list(tmp_path.iterdir())) == 3
    spool.drop(items)
    assert list(tmp_path.iterdir()) == []
    again = waiting("again")
    spool.keep([again])
    spool.drop([again])
    assert list(tmp_path.iterdir()) == []


def test_a_write_cut_short_costs_nothing_that_was_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.keep([waiting("a"), waiting("b")])
    crash(spool)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        whole = found(tmp_path)
        assert whole == [event("a"), event("b")][: len(whole)]
        path.write_bytes(content)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert found(tmp_path) == [event("a")]


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "made")
    spool.keep([waiting("a")])
    (path,) = (tmp_path / "made").iterdir()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    crash(spool)


async def test_usage_left_on_disk_is_sent_by_the_next_client_and_then_gone(tmp_path: Path) -> None:
    before = Spool(tmp_path)
    before.keep([waiting(f"e-{number}") for number in range(1_500)])
    crash(before)
    async with stage(spool_folder=tmp_path) as at:
        at.delivery.wake()
        await until(lambda: at.buffer.counts().recorded == 1_500)
        assert at.suite.recorded("api_calls") == 1_500
        assert found(tmp_path) == []


async def test_all_that_waits_is_on_disk_whatever_can_be_sent(tmp_path: Path) -> None:
    count = 2 * BATCH_EVENTS_MAX + 1
    async with stage(spool_folder=tmp_path) as at:
        at.suite.failure = AWAY
        for number in range(count):
            at.buffer.put(waiting(f"e-{number}"))
        await until(lambda: at.delivery.failures > 0)
        at.buffer.put(waiting("later"))
        # A file that is still being synced cannot be found: its lock goes with the call.
        await until(lambda: frames_in(tmp_path) == count + 1 and not at.delivery._writing.locked())
        assert at.spool is not None
        crash(at.spool)
        assert found(tmp_path) == [*(event(f"e-{number}") for number in range(count)), event("later")]


async def test_what_was_sent_before_the_disk_had_it_is_not_kept_afterwards(tmp_path: Path) -> None:
    spool, item = Spool(tmp_path), waiting("a")
    UsageBuffer(1).settle(item, Delivered())
    spool.keep([item])
    assert frames_in(tmp_path) == 0


def frames_in(folder: Path) -> int:
    """How many events the files hold."""
    return sum(path.read_bytes().count(b"\x12\x05tests") for path in folder.glob("*.spool"))


async def until(condition: Callable[[], bool]) -> None:
    """Turns the loop until the condition holds: the disk is real and has threads of its own."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not condition():
            await asyncio.to_thread(rest_of_the_world)
            await rest()


def rest_of_the_world() -> None:
    """Another thread's turn."""
