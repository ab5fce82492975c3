"""Report task time: what passed since the report before goes to the ledger."""

from __future__ import annotations

from kit.clock import Clock, unix_microseconds
from kit.errors import InvalidField
from services.metering.application.ports import TaskTimes
from services.metering.domain import limits
from services.metering.domain.errors import ReportInFuture, ReportTooOld
from services.metering.domain.events import TaskOutcome
from services.metering.domain.task_time import METER, TaskPhase, TaskReport, TaskTimeAnswer, usage_event
from services.metering.domain.validation import validate

_US_PER_MS = 1_000


class ReportTaskTime:
    """Takes reports that tasks are alive."""

    def __init__(self, times: TaskTimes, clock: Clock) -> None:
        self._times = times
        self._clock = clock

    async def __call__(self, report: TaskReport) -> TaskTimeAnswer:
        """What became of the report. Idempotent; what it added is committed with what is remembered of the task.

        Raises InvalidField, ReportTooOld, ReportInFuture, TaskTimeTooLarge, Overloaded and DependencyUnavailable.
        """
        now = self._clock.now()
        _check(report)
        if report.time_ms * _US_PER_MS < unix_microseconds(now - limits.ACCEPTED_BACK):
            raise ReportTooOld(days=limits.ACCEPTED_BACK.days)
        if report.time_ms * _US_PER_MS > unix_microseconds(now + limits.ACCEPTED_AHEAD):
            raise ReportInFuture(seconds=int(limits.ACCEPTED_AHEAD.total_seconds()))
        (answer,) = await self._times.append([report], now=now)
        return answer


def _check(report: TaskReport) -> None:
    if not report.subject.task_id:
        raise InvalidField(field="subject.task_id", problem="required")
    is_end = report.phase is TaskPhase.END
    if is_end != (report.outcome is not TaskOutcome.UNSPECIFIED):
        raise InvalidField(field="task_outcome", problem="required with TASK_PHASE_END, and only there")
    refusal = validate(usage_event(report, 0, ends=is_end), {METER})
    if refusal is not None:
        field, _, problem = refusal.message.partition(": ")
        raise InvalidField(field=field, problem=problem)
