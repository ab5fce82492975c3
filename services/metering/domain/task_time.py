"""How long a task ran, from reports that it was alive.

Reports that are at most TASK_GAP_MAX apart form a stretch, which counts in whole. Of the silence between two stretches
TASK_HEARTBEAT_INTERVAL counts: that long the task may have lived on after its last report. Both follow from the set of
report times alone, so the sum is the same in whatever order they arrive, and a report never takes time away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum

from services.metering.domain import limits, sources
from services.metering.domain.acceptance import Outcome
from services.metering.domain.errors import TaskTimeTooLarge
from services.metering.domain.events import Measurement, Subject, TaskOutcome, UsageEvent
from services.metering.domain.volume import VOLUME_REASON

METER = "agent_minutes"
_NS_PER_MS = 1_000_000
_MILLISECOND = timedelta(milliseconds=1)
_GAP_MAX_MS = limits.TASK_GAP_MAX // _MILLISECOND
_INTERVAL_MS = limits.TASK_HEARTBEAT_INTERVAL // _MILLISECOND


class TaskPhase(Enum):
    """What a report says of its task."""

    START = "START"
    HEARTBEAT = "HEARTBEAT"
    END = "END"


class ReportStatus(Enum):
    """What became of a report."""

    RECORDED = "RECORDED"
    COVERED = "COVERED"
    """The time was covered already."""
    AFTER_END = "AFTER_END"
    """The task had ended before."""
    TOO_LATE = "TOO_LATE"
    """Older than what is remembered of the task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """That a task was alive."""

    subject: Subject
    """Its task_id names the task."""
    phase: TaskPhase
    time_ms: int
    """Unix milliseconds, by the caller's clock."""
    outcome: TaskOutcome = TaskOutcome.UNSPECIFIED
    """With END alone."""
    reservation_id: str = ""

    @property
    def held_bytes(self) -> int:
        """What it takes in memory, roughly, with what is made of it."""
        return 3_000


@dataclass(frozen=True, slots=True, order=True)
class Stretch:
    """A stretch without a silence, both ends included."""

    begin_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class TaskTime:
    """What is remembered of a task."""

    stretches: tuple[Stretch, ...] = ()
    """By time; at most TASK_STRETCHES_MAX, the newest."""
    total_ms: int = 0
    end_ms: int | None = None
    """When it ended; None: not yet."""
    is_trimmed: bool = False
    """Whether older stretches were forgotten."""


@dataclass(frozen=True, slots=True)
class TakenReport:
    """What a report makes of its task."""

    status: ReportStatus
    added_ms: int
    task: TaskTime
    event: UsageEvent | None
    """What to record; None: nothing."""


@dataclass(frozen=True, slots=True)
class TaskTimeAnswer:
    """What became of a report, how long its task has run, and the sequence of its event; 0: none."""

    status: ReportStatus
    added_ms: int
    total_ms: int
    sequence: int


NEVER_REPORTED = TaskTime()


def take(task: TaskTime, report: TaskReport) -> TakenReport:
    """Takes a report. The event's id follows from task and report time, so that the ledger, too, counts it once."""
    ends = report.phase is TaskPhase.END and task.end_ms is None
    if task.end_ms is not None and report.time_ms > task.end_ms:
        return TakenReport(ReportStatus.AFTER_END, 0, task, None)
    is_forgotten = task.is_trimmed and report.time_ms < task.stretches[0].begin_ms
    if is_forgotten and not ends:
        return TakenReport(ReportStatus.TOO_LATE, 0, task, None)
    # An end counts however late it comes, since it frees the reservation: only its time adds nothing then.
    stretches = task.stretches if is_forgotten else _with(task.stretches, report.time_ms)
    added_ms = _covered_ms(stretches) - _covered_ms(task.stretches)
    is_first = not task.stretches
    if not (added_ms or ends or is_first):
        return TakenReport(ReportStatus.COVERED, 0, task, None)
    taken = replace(
        task,
        stretches=stretches[-limits.TASK_STRETCHES_MAX :],
        total_ms=task.total_ms + added_ms,
        # A task that was heard of after the time of its end had not ended then.
        end_ms=stretches[-1].end_ms if ends else task.end_ms,
        is_trimmed=task.is_trimmed or len(stretches) > limits.TASK_STRETCHES_MAX,
    )
    event = usage_event(report, added_ms, ends=ends) if added_ms or ends else None
    return TakenReport(ReportStatus.RECORDED, added_ms, taken, event)


def usage_event(report: TaskReport, added_ms: int, *, ends: bool) -> UsageEvent:
    """What the ledger is to record for a report."""
    event_id = f"{report.subject.task_id}:{report.time_ms}"
    return UsageEvent(
        id=f"{event_id}:end" if ends else event_id,
        source=sources.TASK_TIME,
        subject=report.subject,
        event_time_ns=report.time_ms * _NS_PER_MS,
        measurements=(Measurement(METER, added_ms),),
        reservation_id=report.reservation_id,
        reservation_final=ends and bool(report.reservation_id),
        task_outcome=report.outcome if ends else TaskOutcome.UNSPECIFIED,
    )


def refuse_time_too_large(event: UsageEvent, outcome: Outcome) -> None:
    """Raises TaskTimeTooLarge when the ledger refused the event of a report for its volume."""
    if outcome.refusal is not None and outcome.refusal.reason == VOLUME_REASON:
        raise TaskTimeTooLarge(added_ms=event.measurements[0].quantity)


def _with(stretches: Sequence[Stretch], time_ms: int) -> tuple[Stretch, ...]:
    merged: list[Stretch] = []
    for stretch in sorted([*stretches, Stretch(time_ms, time_ms)]):
        if merged and stretch.begin_ms - merged[-1].end_ms <= _GAP_MAX_MS:
            merged[-1] = Stretch(merged[-1].begin_ms, max(merged[-1].end_ms, stretch.end_ms))
        else:
            merged.append(stretch)
    return tuple(merged)


def _covered_ms(stretches: Sequence[Stretch]) -> int:
    silences = max(0, len(stretches) - 1)
    return sum(each.end_ms - each.begin_ms for each in stretches) + silences * _INTERVAL_MS
