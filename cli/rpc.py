"""Calls into the running suite: a deadline on every attempt, and retries that send the same ids again.

Every mutating RPC carries an id of the caller's, so an attempt whose answer was lost is simply made again: a
service that is killed and restarted costs a pause and changes no number.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from cli.endpoints import Endpoints
from kit.grpc.client import connect
from kit.grpc.errors import reason_of

ATTEMPT_SECONDS = 5.0
# Longer than a service may take to be restarted and to become ready again.
PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS_MIN = 0.05
_PAUSE_SECONDS_MAX = 1.0

_TRANSIENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
# What gRPC makes of a connection that breaks under a call. The same codes with a reason of ours are answers.
_BROKEN_CONNECTION = frozenset({grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED})
_BROKEN_CONNECTION_WORDS = ("Stream removed", "RST_STREAM", "Socket closed", "Connection reset")

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


class CallFailed(Exception):
    """A call was refused, or could not be made for as long as the caller was patient."""

    def __init__(self, method: str, error: grpc.aio.AioRpcError, *, attempts: int) -> None:
        self.code = error.code()
        self.reason = reason_of(error)
        self.details = error.details() or ""
        reason = f" ({self.reason})" if self.reason else ""
        tried = f", tried {attempts} times" if attempts > 1 else ""
        super().__init__(f"{method}: {self.code.name}{reason}: {self.details}{tried}")


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
    request: RequestT,
    *,
    attempt_seconds: float = ATTEMPT_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
) -> ResponseT:
    """The answer. While the service cannot be reached or is late, the request is sent again, unchanged.

    Raises CallFailed when it is refused, or after `patience_seconds` without an answer.
    """
    now = asyncio.get_running_loop().time
    give_up_at = now() + patience_seconds
    pause = _PAUSE_SECONDS_MIN
    attempts = 0
    while True:
        attempts += 1
        try:
            return await method(request, timeout=min(attempt_seconds, max(give_up_at - now(), _PAUSE_SECONDS_MIN)))
        except grpc.aio.AioRpcError as error:
            if not _may_pass(error) or now() + pause >= give_up_at:
                name = type(request).__name__.removesuffix("Request")
                raise CallFailed(name, error, attempts=attempts) from None
        # Full jitter would let three callers hit a starting service at once as well; half of it spreads them.
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        pause = min(pause * 2, _PAUSE_SECONDS_MAX)


def _may_pass(error: grpc.aio.AioRpcError) -> bool:
    if error.code() in _TRANSIENT:
        return True
    if reason_of(error):
        return False
    details = error.details() or ""
    return error.code() in _BROKEN_CONNECTION or any(words in details for words in _BROKEN_CONNECTION_WORDS)


class Connections:
    """Channels to the services of a suite that carry one key; they connect again after a restart."""

    def __init__(self, endpoints: Endpoints, key: str) -> None:
        self._channels = {service: connect(address, key) for service, address in endpoints.addresses.items()}

    def to(self, service: str) -> grpc.aio.Channel:
        """The channel to a service."""
        return self._channels[service]

    async def close(self) -> None:
        """Ends every channel."""
        for channel in self._channels.values():
            await channel.close()


@asynccontextmanager
async def connections(endpoints: Endpoints, key: str) -> AsyncIterator[Connections]:
    """Channels that are closed at the end of the block."""
    async with AsyncExitStack() as stack:
        made = Connections(endpoints, key)
        stack.push_async_callback(made.close)
        yield made
