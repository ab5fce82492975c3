"""The requests that are measured with, encoded beforehand. A run of 16 "#" is the client's to replace by a number."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from tests.bench.checks.peers import MINUTES
from tollbook.metering.v1 import metering_pb2
from tollbook.quota.v1 import quota_pb2

NUMBER = "#" * 16


def check(organization_id: str, mode: quota_pb2.CheckMode.ValueType, quantity: int = 60_000) -> quota_pb2.CheckRequest:
    """A check of one meter with one matching limit, by a subject as an orchestrator names it."""
    request = quota_pb2.CheckRequest(
        request_id=f"task-{NUMBER}",
        subject=metering_pb2.Subject(
            organization_id=organization_id, project_id="project-7", user_id="usr_0192f0c17d4e", agent_id="agent-12"
        ),
        consumptions=[quota_pb2.Consumption(meter=MINUTES, quantity=quantity)],
        mode=mode,
    )
    if mode == quota_pb2.CHECK_MODE_RESERVE:
        request.reserve_duration.CopyFrom(Duration(seconds=900))
    return request


def unary(organization_ids: Sequence[str], mode: quota_pb2.CheckMode.ValueType, quantity: int = 60_000) -> list[bytes]:
    """One check of each organization."""
    return [check(each, mode, quantity).SerializeToString() for each in organization_ids]


def batches(organization_ids: Sequence[str], mode: quota_pb2.CheckMode.ValueType, checks: int) -> list[bytes]:
    """A batch of so many checks of each organization, of tasks of ten users that differ in what they ask for."""
    return [
        quota_pb2.BatchCheckRequest(
            checks=[_of_a_task(check(each, mode, 60_000 + number), number) for number in range(checks)]
        ).SerializeToString()
        for each in organization_ids
    ]


def _of_a_task(request: quota_pb2.CheckRequest, number: int) -> quota_pb2.CheckRequest:
    request.subject.user_id = f"usr_0192f0c17d4{number % 10}"
    request.subject.task_id = f"task_{number:024x}"
    return request
