"""What the SDK asks of the suite, in one place: a small port, so that everything above it runs on a fake as well."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from tollbook.metering.v1 import metering_pb2, task_time_pb2
from tollbook.quota.v1 import quota_pb2

# Statuses after which the same call, with the same ids, can succeed. Every call of the SDK is safe to repeat.
_PASSING = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "UNKNOWN", "INTERNAL", "ABORTED"}
)
# A key that was revoked or lacks a scope is put right by an operator: usage waits for that instead of being thrown
# away.
_UNTIL_PUT_RIGHT = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"})
_OF_THE_REQUEST = frozenset({"ORGANIZATION_MISMATCH", "REQUEST_ID_REUSED", "CONTENT_CONFLICT"})


class CallFailed(Exception):
    """A call was not answered, or answered with a status other than OK."""

    def __init__(self, code: str, reason: str = "", message: str = "", retry_seconds: float | None = None) -> None:
        super().__init__(f"{code} {reason} {message}")
        self.code = code
        self.reason = reason
        """The ErrorReason; empty when the answer carries none."""
        self.message = message
        self.retry_seconds = retry_seconds
        """The delay that google.rpc.RetryInfo asks for; None: none."""

    @property
    def passes(self) -> bool:
        """Whether the same call can succeed later without anybody doing anything."""
        return self.code in _PASSING and self.reason not in _OF_THE_REQUEST

    @property
    def is_about_the_request(self) -> bool:
        """Whether what was sent is wrong, so that sending it again cannot help."""
        return not self.passes and (self.code not in _UNTIL_PUT_RIGHT or self.reason in _OF_THE_REQUEST)


class Suite(Protocol):
    """The RPCs of the contract, as they stand there. `seconds` is the deadline. All raise CallFailed."""

    async def check(self, request: quota_pb2.CheckRequest, *, seconds: float) -> quota_pb2.CheckResponse:
        """QuotaService.Check."""
        ...

    async def extend(
        self, request: quota_pb2.ExtendReservationRequest, *, seconds: float
    ) -> quota_pb2.ExtendReservationResponse:
        """QuotaService.ExtendReservation."""
        ...

    async def commit(
        self, request: quota_pb2.CommitReservationRequest, *, seconds: float
    ) -> quota_pb2.CommitReservationResponse:
        """QuotaService.CommitReservation."""
        ...

    async def release(
        self, request: quota_pb2.ReleaseReservationRequest, *, seconds: float
    ) -> quota_pb2.ReleaseReservationResponse:
        """QuotaService.ReleaseReservation."""
        ...

    async def record(
        self, request: metering_pb2.RecordUsageRequest, *, seconds: float
    ) -> metering_pb2.RecordUsageResponse:
        """MeteringService.RecordUsage."""
        ...

    def stream(
        self, requests: Sequence[metering_pb2.StreamUsageRequest], *, seconds: float
    ) -> AsyncGenerator[metering_pb2.StreamUsageResponse, None]:
        """MeteringService.StreamUsage: all requests in one call; the acknowledgements as they come. Closing it cancels
        what is not acknowledged yet.
        """
        ...

    async def report(
        self, request: task_time_pb2.ReportTaskTimeRequest, *, seconds: float
    ) -> task_time_pb2.ReportTaskTimeResponse:
        """TaskTimeService.ReportTaskTime."""
        ...

    def close(self) -> None:
        """Ends what is open; calls under way end with CANCELLED."""
        ...
