"""Senders: how fast batches come to be acknowledged, and how long one takes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from time import perf_counter

from tests.metering_process import ADMIN, MeteringProcess
from tollbook.metering.v1 import metering_pb2

_SERVICE = "/tollbook.metering.v1.MeteringService"


def _as_it_is(data: bytes) -> bytes:
    return data


async def stream_rate(metering: MeteringProcess, of_streams: Sequence[Sequence[bytes]], event_count: int) -> float:
    """Events per second, from the first write to the last acknowledgement, over as many streams at once."""
    open_stream = metering.channel.stream_stream(
        f"{_SERVICE}/StreamUsage",
        request_serializer=_as_it_is,
        response_deserializer=metering_pb2.StreamUsageResponse.FromString,
    )
    recorded = 0

    async def send(requests: Sequence[bytes]) -> None:
        nonlocal recorded
        stream = open_stream(metadata=ADMIN)

        async def write() -> None:
            for request in requests:
                await stream.write(request)
            await stream.done_writing()

        writing = asyncio.create_task(write())
        async for answer in stream:
            recorded += answer.accepted_count + answer.duplicate_count
        await writing

    started = perf_counter()
    await asyncio.gather(*map(send, of_streams))
    seconds = perf_counter() - started
    assert recorded == event_count, f"{recorded} of {event_count} events were acknowledged"
    return event_count / seconds


async def unary_rate(metering: MeteringProcess, requests: Sequence[bytes], event_count: int, callers: int) -> float:
    """Events per second of so many callers that each wait for an answer before they send the next request."""
    call = metering.channel.unary_unary(
        f"{_SERVICE}/RecordUsage",
        request_serializer=_as_it_is,
        response_deserializer=metering_pb2.RecordUsageResponse.FromString,
    )
    waiting = list(requests)
    recorded = 0

    async def send() -> None:
        nonlocal recorded
        while waiting:
            answer = await call(waiting.pop(), metadata=ADMIN)
            recorded += len(answer.results)

    started = perf_counter()
    await asyncio.gather(*(send() for _ in range(callers)))
    seconds = perf_counter() - started
    assert recorded == event_count, f"{recorded} of {event_count} events were answered"
    return event_count / seconds


async def acknowledge_times(
    metering: MeteringProcess, requests: Sequence[bytes], *, every_seconds: float
) -> list[float]:
    """Seconds from the moment each batch was due to its acknowledgement, sent at a fixed pace over one stream: a batch
    that is sent late because another was slow counts from when it was due.
    """
    open_stream = metering.channel.stream_stream(
        f"{_SERVICE}/StreamUsage",
        request_serializer=_as_it_is,
        response_deserializer=metering_pb2.StreamUsageResponse.FromString,
    )
    stream = open_stream(metadata=ADMIN)
    started = perf_counter()

    async def write() -> None:
        for number, request in zip(count(), requests):
            await asyncio.sleep(max(0.0, started + number * every_seconds - perf_counter()))
            await stream.write(request)
        await stream.done_writing()

    writing = asyncio.create_task(write())
    found: list[float] = []
    async for _ in stream:
        found.append(perf_counter() - started - len(found) * every_seconds)
    await writing
    return found
