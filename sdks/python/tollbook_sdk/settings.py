"""How a client behaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from tollbook.metering.v1 import metering_pb2, task_time_pb2
from tollbook_sdk.decision import OnUnavailable

HOLD_SECONDS_MIN = 1.0
HOLD_SECONDS_MAX = 86_400.0
SILENCE_SECONDS_MAX = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LostUsage:
    """Usage that will not reach the ledger unless you see to it."""

    usage: metering_pb2.UsageEvent | task_time_pb2.ReportTaskTimeRequest
    """What would have been sent; sending it later, with the same id, is safe."""
    reason: str
    """`BUFFER_FULL`, or the ErrorReason that metering refused it with, such as `EVENT_TOO_OLD`."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything but the addresses and the key has a default."""

    quota: str
    """`host:port` of the quota service, or a gRPC target such as `dns:///quota:7602` for several."""
    metering: str
    """The same of the metering service."""
    key: str = ""
    """An API key with the scopes quota-check and usage-write."""
    tls: grpc.ChannelCredentials | None = None
    """`grpc.ssl_channel_credentials()`, for example; None: plain text, for loopback or behind a mesh's own TLS."""
    source: str = "tollbook-sdk"
    """The source of events recorded without one of their own."""
    on_unavailable: OnUnavailable = OnUnavailable.ALLOW
    """What stands for the answer to a check that does not come within `check_budget_seconds`."""
    check_budget_seconds: float = 0.05
    """The longest that a check keeps its caller waiting."""
    call_seconds: float = 5.0
    """The deadline of calls that nobody waits for."""
    buffer_events_max: int = 10_000
    """The most events and reports that wait to be sent; more are refused."""
    spool_folder: Path | None = None
    """Where waiting usage is kept on disk as well, synced, so that a crash loses nothing. One folder may serve many
    processes; None: memory alone.
    """
    heartbeat_seconds: float = 10.0
    """How often a task says that it is alive. The ledger counts silences of up to 20 seconds in whole."""
    task_hold_seconds: float = 60.0
    """How long a task's reservation outlives its last heartbeat."""
    close_seconds: float = 5.0
    """The longest that the interpreter's exit waits for usage to be sent."""
    on_lost: Callable[[LostUsage], None] | None = None
    """Called, from any thread, for usage that was refused. Keep it short; what it raises is logged."""

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot work."""
        _positive(self, "check_budget_seconds", "call_seconds", "buffer_events_max", "heartbeat_seconds")
        if self.heartbeat_seconds > SILENCE_SECONDS_MAX:
            raise ValueError("heartbeat_seconds: above 20, so the ledger would not count the time between two")
        if not HOLD_SECONDS_MIN <= self.task_hold_seconds <= HOLD_SECONDS_MAX:
            raise ValueError("task_hold_seconds: not in 1 to 86400")
        if self.task_hold_seconds <= self.heartbeat_seconds:
            raise ValueError("task_hold_seconds: no longer than a heartbeat, so every hold would lapse between two")


def _positive(settings: Settings, *names: str) -> None:
    for name in names:
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name}: not above 0")
