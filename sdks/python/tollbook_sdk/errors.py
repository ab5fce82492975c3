"""What the SDK raises. All are TollbookError."""

from __future__ import annotations

from datetime import timedelta

from tollbook_sdk.decision import Decision, LimitState


class TollbookError(Exception):
    """Something of Tollbook."""


class _Stopped(TollbookError):
    def __init__(self, decision: Decision) -> None:
        super().__init__(f"{decision.reason}: {decision.message}" if decision.message else decision.reason)
        self.decision = decision

    @property
    def reason(self) -> str:
        """Why, such as `LIMIT_REACHED`: a DenyReason of the contract without its prefix."""
        return self.decision.reason

    @property
    def limit(self) -> LimitState | None:
        """The limit that denied, with its counters; None where no limit did."""
        return self.decision.limit

    @property
    def retry_after(self) -> timedelta | None:
        """When asking again can make sense; None: waiting does not help, or nobody knows."""
        return self.decision.retry_after


class QuotaDenied(_Stopped):
    """The check was denied: do not begin. Nothing was held."""


class QuotaExhausted(_Stopped):
    """A running task may not go on: its reservation could not be extended."""


class SuiteUnavailable(TollbookError):
    """The suite did not answer in time, and no policy can stand in for its answer."""


class RequestRefused(TollbookError):
    """The suite refused the request itself: a key, a meter or a field is wrong. Asking again does not help."""

    def __init__(self, code: str, reason: str, message: str) -> None:
        super().__init__(f"{reason or code}: {message}")
        self.code = code
        """The gRPC status, such as `INVALID_ARGUMENT`."""
        self.reason = reason
        """The ErrorReason, such as `UNKNOWN_METER`; empty when the answer carries none."""


class BufferFull(TollbookError):
    """The usage was not taken: as much is waiting to be sent as may. It is counted and reported to `on_lost`."""


class ClientClosed(TollbookError):
    """The client was closed."""


class UsedAcrossFork(TollbookError):
    """The client was in use when the process forked. Make one in each process, after the fork."""
