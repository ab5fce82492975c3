"""How long a task ran, from reports that it was alive."""

from __future__ import annotations

import pytest

from services.metering.domain import limits
from services.metering.domain.events import Measurement, Subject, TaskOutcome
from services.metering.domain.task_time import (
    NEVER_REPORTED,
    ReportStatus,
    TakenReport,
    TaskPhase,
    TaskReport,
    TaskTime,
    take,
)

SUBJECT = Subject(organization_id="acme", task_id="t1")


def report(second: float, phase: TaskPhase = TaskPhase.HEARTBEAT, *, reservation_id: str = "") -> TaskReport:
    outcome = TaskOutcome.FAILED if phase is TaskPhase.END else TaskOutcome.UNSPECIFIED
    return TaskReport(
        subject=SUBJECT,
        phase=phase,
        time_ms=round(second * 1_000),
        outcome=outcome,
        reservation_id=reservation_id,
    )


def after(*seconds: float, task: TaskTime = NEVER_REPORTED) -> TaskTime:
    for second in seconds:
        task = take(task, report(second)).task
    return task


def summary(taken: TakenReport) -> tuple[ReportStatus, int, int]:
    return taken.status, taken.added_ms, taken.task.total_ms


def test_each_heartbeat_adds_what_passed_since_the_one_before() -> None:
    task = after(0)
    assert task.total_ms == 0
    for second, total in ((10, 10_000), (20.5, 20_500), (30, 30_000)):
        taken = take(task, report(second))
        assert summary(taken) == (ReportStatus.RECORDED, total - task.total_ms, total)
        task = taken.task


def test_an_end_adds_the_rest_and_says_how_the_task_ended_and_frees_the_reservation() -> None:
    taken = take(after(0, 10), report(13.25, TaskPhase.END, reservation_id="r1"))
    assert summary(taken) == (ReportStatus.RECORDED, 3_250, 13_250)
    assert taken.event is not None
    assert taken.event.measurements == (Measurement("agent_minutes", 3_250),)
    assert (taken.event.task_outcome, taken.event.reservation_final) == (TaskOutcome.FAILED, True)


def test_a_heartbeat_draws_the_reservation_down_and_leaves_it_open() -> None:
    event = take(after(0), report(10, reservation_id="r1")).event
    assert event is not None
    assert (event.reservation_id, event.reservation_final) == ("r1", False)


def test_a_task_whose_reports_stop_has_counted_up_to_its_last_report() -> None:
    assert after(0, 10, 20).total_ms == 20_000


@pytest.mark.parametrize(("silence", "added"), [(20, 20_000), (20.001, 10_000), (86_400, 10_000)])
def test_a_silence_above_two_intervals_counts_one(silence: float, added: int) -> None:
    assert take(after(0, 10), report(10 + silence)).added_ms == added


def test_a_late_report_in_a_silence_adds_what_it_shows_to_have_been_worked() -> None:
    task = after(0, 50)
    assert task.total_ms == 10_000
    taken = take(task, report(30))
    assert summary(taken) == (ReportStatus.RECORDED, 20_000, 30_000)
    assert after(15, task=taken.task).total_ms == 50_000


def test_a_repeated_report_adds_nothing_and_has_no_event() -> None:
    task = after(0, 10, 20)
    for second in (0, 5, 10, 20):
        taken = take(task, report(second))
        assert summary(taken) == (ReportStatus.COVERED, 0, 20_000)
        assert (taken.event, taken.task) == (None, task)


def test_a_start_that_arrives_after_its_first_heartbeat_adds_the_time_between() -> None:
    assert take(after(10), report(0, TaskPhase.START)).added_ms == 10_000


def test_after_its_end_a_task_takes_no_later_time_but_still_what_was_late() -> None:
    ended = take(after(0), report(50, TaskPhase.END)).task
    assert summary(take(ended, report(50.001))) == (ReportStatus.AFTER_END, 0, 10_000)
    assert summary(take(ended, report(60, TaskPhase.END))) == (ReportStatus.AFTER_END, 0, 10_000)
    assert summary(take(ended, report(60, TaskPhase.START))) == (ReportStatus.AFTER_END, 0, 10_000)
    assert summary(take(ended, report(50, TaskPhase.END))) == (ReportStatus.COVERED, 0, 10_000)
    late = take(ended, report(10))
    assert summary(late) == (ReportStatus.RECORDED, 10_000, 20_000)
    assert late.event is not None
    assert late.event.task_outcome is TaskOutcome.UNSPECIFIED


def test_an_end_is_recorded_even_if_it_adds_no_time() -> None:
    taken = take(after(0, 10), report(10, TaskPhase.END))
    assert summary(taken) == (ReportStatus.RECORDED, 0, 10_000)
    assert taken.event is not None
    assert taken.event.id == "t1:10000:end"


def test_an_end_before_the_last_report_takes_nothing_back() -> None:
    ended = take(after(0, 10, 20), report(15, TaskPhase.END)).task
    assert (ended.total_ms, ended.end_ms) == (20_000, 20_000)


def test_what_is_remembered_of_a_task_has_a_bound_and_older_reports_are_told_so() -> None:
    count = limits.TASK_STRETCHES_MAX + 3
    task = after(*(100 * number for number in range(count)))
    assert len(task.stretches) == limits.TASK_STRETCHES_MAX
    assert task.total_ms == (count - 1) * 10_000
    assert summary(take(task, report(150))) == (ReportStatus.TOO_LATE, 0, task.total_ms)
    assert summary(take(task, report(350))) == (ReportStatus.RECORDED, 10_000, task.total_ms + 10_000)
    ended = take(task, report(150, TaskPhase.END))
    assert summary(ended) == (ReportStatus.RECORDED, 0, task.total_ms)
    assert ended.task.end_ms == 100_000 * (count - 1)
