"""Refusals on the wire: a status with google.rpc.ErrorInfo, there and back."""

from __future__ import annotations

from datetime import timedelta

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from kit.errors import DependencyUnavailable, Kind, LogRewound, OutOfRetention, Refused

DOMAIN = "tollbook.dev"


def to_status(kind: str, reason: str, message: str, request_id: str) -> grpc.Status:
    """The status as a servicer aborts with it."""
    return rpc_status.to_status(status_to_pb(kind, reason, message, request_id))


def status_to_pb(
    kind: str, reason: str, message: str, request_id: str, *, retry_delay: timedelta | None = None
) -> status_pb2.Status:
    """A status with the reason, the request id to find the log line by, and google.rpc.RetryInfo if there is a delay
    after which to try again.
    """
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata={"request_id": request_id})
    details = [any_pb2.Any()]
    details[0].Pack(info)
    if retry_delay is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(retry_delay)
        details.append(any_pb2.Any())
        details[1].Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(code=code_pb2.Code.Value(kind), message=message, details=details)


def refusal_to_pb(refusal: Refused, request_id: str) -> status_pb2.Status:
    """The status that a refusal is answered with."""
    return status_to_pb(refusal.kind.value, refusal.reason, str(refusal), request_id, retry_delay=refusal.retry_delay)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The ErrorInfo reason of a failed call; empty when it carries none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # AioRpcError has the two methods it reads
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""


def retry_delay_of(error: grpc.aio.AioRpcError) -> timedelta | None:
    """The delay that google.rpc.RetryInfo of a failed call asks for; None when it carries none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # AioRpcError has the two methods it reads
    for detail in status.details if status else ():
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.ToTimedelta()
    return None


def refusal_from_call(error: grpc.aio.AioRpcError, dependency: str) -> Refused:
    """What a failed call to another service means to us: a refusal to raise from the adapter."""
    reason = reason_of(error)
    if reason == LogRewound.reason:
        return LogRewound(sequence="sent")
    if reason == OutOfRetention.reason:
        return OutOfRetention(problem=error.details() or "")
    if error.code() in _OURS_TO_PASS_ON and reason:
        return PassedOn(error.code().name, reason, error.details() or "")
    return DependencyUnavailable(dependency=dependency)


_OURS_TO_PASS_ON = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)


class PassedOn(Refused):
    """Another service refused, and its reason is ours."""

    def __init__(self, kind: str, reason: str, message: str) -> None:
        super().__init__()
        self.kind = Kind(kind)  # type: ignore[misc]  # this one refusal takes over what another one said
        self.reason = reason  # type: ignore[misc]
        self.args = (message,)
