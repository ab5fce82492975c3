"""What a caller is told of whatever was raised, and what the log says of it."""

from __future__ import annotations

import structlog
from google.rpc import status_pb2

from kit.errors import Refused
from kit.grpc.errors import refusal_to_pb, status_to_pb

log = structlog.get_logger()


def failure_to_pb(error: Exception, method: str, request_id: str) -> status_pb2.Status:
    """The status of an error: the refusal it is, a deadline, or a defect of ours, of which the caller learns no more
    than the request id by which the operator finds its log line.
    """
    if isinstance(error, Refused):
        log.info("call_refused", method=method, reason=error.reason, message=str(error), request_id=request_id)
        return refusal_to_pb(error, request_id)
    if isinstance(error, TimeoutError):
        log.warning("call_timed_out", method=method, request_id=request_id)
        message = "The call was not answered within its deadline; retry with the same ids."
        return status_to_pb("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", message, request_id)
    log.error("call_failed", method=method, exc_info=error, request_id=request_id)
    message = f"A defect of ours; the operator finds it by request id {request_id}."
    return status_to_pb("INTERNAL", "INTERNAL", message, request_id)
