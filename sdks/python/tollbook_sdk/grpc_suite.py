"""The suite over gRPC.

The channels are grpc's threaded ones, awaited from the SDK's loop, and not grpc.aio's: grpc.aio shares one poller
between all event loops of a process, so a second loop beside an application's own makes both stumble over each other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc, task_time_pb2, task_time_pb2_grpc
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc
from tollbook_sdk.settings import Settings
from tollbook_sdk.suite import CallFailed

Request = TypeVar("Request")
Response = TypeVar("Response")

_HEALTH = "/grpc.health.v1.Health/Check"
_CONNECT_SECONDS = 5.0
_DETAILS_KEY = "grpc-status-details-bin"
_OPTIONS = [
    # Found again quickly after a restart; the SDK itself spaces its attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    # Retries are the SDK's own: within a caller's budget, and counted.
    ("grpc.enable_retries", 0),
]


class GrpcSuite:
    """As Suite. Connects at once and again after a loss, without end."""

    def __init__(self, settings: Settings) -> None:
        self._metadata = (("authorization", f"Bearer {settings.key}"),) if settings.key else ()
        addresses = dict.fromkeys((settings.quota, settings.metering))
        self._channels = {address: _channel(address, settings.tls) for address in addresses}
        self._quota = quota_pb2_grpc.QuotaServiceStub(self._channels[settings.quota])
        self._metering = metering_pb2_grpc.MeteringServiceStub(self._channels[settings.metering])
        self._task_time = task_time_pb2_grpc.TaskTimeServiceStub(self._channels[settings.metering])

    async def check(self, request: quota_pb2.CheckRequest, *, seconds: float) -> quota_pb2.CheckResponse:
        """As Suite."""
        return await self._call(self._quota.Check, request, seconds)

    async def extend(
        self, request: quota_pb2.ExtendReservationRequest, *, seconds: float
    ) -> quota_pb2.ExtendReservationResponse:
        """As Suite."""
        return await self._call(self._quota.ExtendReservation, request, seconds)

    async def commit(
        self, request: quota_pb2.CommitReservationRequest, *, seconds: float
    ) -> quota_pb2.CommitReservationResponse:
        """As Suite."""
        return await self._call(self._quota.CommitReservation, request, seconds)

    async def release(
        self, request: quota_pb2.ReleaseReservationRequest, *, seconds: float
    ) -> quota_pb2.ReleaseReservationResponse:
        """As Suite."""
        return await self._call(self._quota.ReleaseReservation, request, seconds)

    async def record(
        self, request: metering_pb2.RecordUsageRequest, *, seconds: float
    ) -> metering_pb2.RecordUsageResponse:
        """As Suite."""
        return await self._call(self._metering.RecordUsage, request, seconds)

    async def stream(
        self, requests: Sequence[metering_pb2.StreamUsageRequest], *, seconds: float
    ) -> AsyncGenerator[metering_pb2.StreamUsageResponse, None]:
        """As Suite."""
        loop, answers = asyncio.get_running_loop(), asyncio.Queue[metering_pb2.StreamUsageResponse | None]()
        try:
            call: Any = self._metering.StreamUsage(iter(requests), timeout=seconds, metadata=self._metadata)
        except (ValueError, RuntimeError) as closed:  # a closed channel; no threads at the interpreter's end
            raise CallFailed("CANCELLED", message=str(closed)) from closed

        def tell(answer: metering_pb2.StreamUsageResponse | None) -> None:
            # The loop may be gone by the time that an abandoned call ends.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(answers.put_nowait, answer)

        def listen() -> None:
            # How it ended is in the call.
            with contextlib.suppress(grpc.RpcError):
                for answer in call:
                    tell(answer)
            tell(None)

        try:
            try:
                listening = loop.run_in_executor(None, listen)
            except RuntimeError as ended:
                raise CallFailed("CANCELLED", message=str(ended)) from ended
            while (answer := await answers.get()) is not None:
                yield answer
            await listening
            if call.code() is not grpc.StatusCode.OK:
                raise _failure(call)
        finally:
            call.cancel()

    async def report(
        self, request: task_time_pb2.ReportTaskTimeRequest, *, seconds: float
    ) -> task_time_pb2.ReportTaskTimeResponse:
        """As Suite."""
        return await self._call(self._task_time.ReportTaskTime, request, seconds)

    def close(self) -> None:
        """As Suite."""
        for channel in self._channels.values():
            channel.close()

    async def _call(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request, seconds: float
    ) -> Response:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        try:
            call: Any = method.future(request, timeout=seconds, metadata=self._metadata)
        except ValueError as closed:  # what a closed channel raises
            raise CallFailed("CANCELLED", message=str(closed)) from closed

        def tell(_: object) -> None:
            # The loop may be gone by the time that an abandoned call ends.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_set, ended)

        call.add_done_callback(tell)
        try:
            await ended
        except asyncio.CancelledError:
            call.cancel()
            raise
        if call.code() is not grpc.StatusCode.OK:
            raise _failure(call)
        response: Response = call.result()
        return response


def _set(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _channel(address: str, tls: grpc.ChannelCredentials | None) -> grpc.Channel:
    channel = grpc.insecure_channel(address, _OPTIONS) if tls is None else grpc.secure_channel(address, tls, _OPTIONS)
    # Connecting begins now, so that the first check does not pay for it out of its budget: by a call whose answer
    # nobody needs. Subscribing to the channel's state would connect too, but leaves a thread that stumbles when it is
    # closed.
    health = channel.unary_unary(_HEALTH, request_serializer=bytes, response_deserializer=bytes)
    health.future(b"", timeout=_CONNECT_SECONDS)
    return channel


def _failure(call: Any) -> CallFailed:
    reason, retry_seconds = "", None
    for key, value in call.trailing_metadata() or ():
        if key != _DETAILS_KEY:
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(retry):
                retry_seconds = retry.retry_delay.ToTimedelta().total_seconds()
    return CallFailed(call.code().name, reason, call.details() or "", retry_seconds)
