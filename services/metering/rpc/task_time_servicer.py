"""TaskTimeService: agent-minutes while they pass."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.errors import InvalidField
from kit.grpc.call import OrganizationExists, organization_of
from kit.grpc.context import ServicerContext
from kit.grpc.convert import nanoseconds_from_pb
from services.metering.application.report_task_time import ReportTaskTime
from services.metering.domain.events import TaskOutcome
from services.metering.domain.task_time import TaskPhase, TaskReport, TaskTimeAnswer
from services.metering.rpc.convert import subject_from_pb
from tollbook.metering.v1 import metering_pb2, task_time_pb2, task_time_pb2_grpc

_PHASES = {
    task_time_pb2.TASK_PHASE_START: TaskPhase.START,
    task_time_pb2.TASK_PHASE_HEARTBEAT: TaskPhase.HEARTBEAT,
    task_time_pb2.TASK_PHASE_END: TaskPhase.END,
}
_NS_PER_MS = 1_000_000


class TaskTimeServicer(task_time_pb2_grpc.TaskTimeServiceServicer):
    """Takes reports that tasks are alive."""

    service_name: ClassVar[str] = "tollbook.metering.v1.TaskTimeService"

    def __init__(self, *, report_task_time: ReportTaskTime, exists: OrganizationExists) -> None:
        self._report_task_time = report_task_time
        self._exists = exists

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        task_time_pb2_grpc.add_TaskTimeServiceServicer_to_server(self, server)

    async def ReportTaskTime(
        self, request: task_time_pb2.ReportTaskTimeRequest, context: ServicerContext
    ) -> task_time_pb2.ReportTaskTimeResponse:
        """See the proto."""
        organization_id = await organization_of(request.subject.organization_id, exists=self._exists)
        return _answer_to_pb(await self._report_task_time(_report_from_pb(request, organization_id)))


def _report_from_pb(request: task_time_pb2.ReportTaskTimeRequest, organization_id: str) -> TaskReport:
    if request.phase not in _PHASES:
        raise InvalidField(field="phase", problem="required")
    if not request.HasField("report_time"):
        raise InvalidField(field="report_time", problem="required")
    if request.task_outcome not in metering_pb2.TaskOutcome.values():
        raise InvalidField(field="task_outcome", problem=f"{request.task_outcome} is no TaskOutcome")
    return TaskReport(
        subject=subject_from_pb(request.subject, organization_id),
        phase=_PHASES[request.phase],
        time_ms=nanoseconds_from_pb(request.report_time) // _NS_PER_MS,
        outcome=TaskOutcome(request.task_outcome),
        reservation_id=request.reservation_id,
    )


def _answer_to_pb(answer: TaskTimeAnswer) -> task_time_pb2.ReportTaskTimeResponse:
    return task_time_pb2.ReportTaskTimeResponse(
        status=task_time_pb2.TaskReportStatus.Value(f"TASK_REPORT_STATUS_{answer.status.value}"),
        added_milliseconds=answer.added_ms,
        total_milliseconds=answer.total_ms,
        sequence=answer.sequence,
    )
