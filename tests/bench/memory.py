"""S2, of ingest: memory of metering over a million events, a tenth of whose calls are given up."""

from __future__ import annotations

import asyncio
import random

import grpc

from tests.bench.events import make_events, stream_requests, unary_requests
from tests.bench.ground import MIXED, Ground
from tests.bench.table import Figure, Floor
from tests.metering_process import ADMIN, MeteringProcess, metering_processes, resident_bytes
from tollbook.metering.v1 import metering_pb2

BATCH_EVENTS = 500
BATCHES_OF_STREAM = 4
CALLERS = 8
CANCELLED = 0.1
_SOURCE = b"orchestrator"
_SERVICE = "/tollbook.metering.v1.MeteringService"


def _as_it_is(data: bytes) -> bytes:
    return data


class _Requests:
    """Requests whose events are new each time, made by changing the source in one that is encoded already."""

    def __init__(self) -> None:
        events = make_events(BATCH_EVENTS, MIXED)
        self._stream = stream_requests(events, BATCH_EVENTS)[0]
        self._unary = unary_requests(events, BATCH_EVENTS)[0]
        self._count = 0

    def unary(self) -> bytes:
        return self._unary.replace(_SOURCE, self._source())

    def stream(self, number: int) -> bytes:
        # A field that comes twice has its last value: the number of the batch.
        return (
            self._stream.replace(_SOURCE, self._source())
            + metering_pb2.StreamUsageRequest(batch_number=number).SerializeToString()
        )

    def _source(self) -> bytes:
        self._count += 1
        return b"batch-%06d" % self._count


async def memory(ground: Ground) -> list[Figure]:
    """Resident memory of metering at a tenth, at half and at the end, of unary calls and streams in turn."""
    total, shares = ground.sizes.remembered_events, (0.1, 0.5, 1.0)
    sizes: list[float] = []
    async with metering_processes(ground.site(ground.new_database("memory"))) as (metering,):
        sender = _Sender(metering)
        for share in shares:
            await sender.send_until(int(total * share))
            sizes.append(resident_bytes(metering.pid) / 2**20)
    growth = sizes[-1] / sizes[0] - 1
    return [
        *(
            Figure(id="S2", name=f"memory of metering after {total * share:,.0f} events", rounds=[size], unit="MiB")
            for share, size in zip(shares, sizes, strict=True)
        ),
        Figure(
            id="S2", name="growth from a tenth to the end", rounds=[growth * 100], unit="%", floor=Floor(at_most=5.0)
        ),
        Figure(id="S2", name="calls given up", rounds=[float(sender.cancelled)], unit="", digits=0),
    ]


class _Sender:
    """Sends events by calls of both kinds, and gives up every tenth while it is under way."""

    def __init__(self, metering: MeteringProcess) -> None:
        self._requests = _Requests()
        self._random = random.Random(20260101)
        self._sent = 0
        self.cancelled = 0
        self._record = metering.channel.unary_unary(
            f"{_SERVICE}/RecordUsage",
            request_serializer=_as_it_is,
            response_deserializer=metering_pb2.RecordUsageResponse.FromString,
        )
        self._stream = metering.channel.stream_stream(
            f"{_SERVICE}/StreamUsage",
            request_serializer=_as_it_is,
            response_deserializer=metering_pb2.StreamUsageResponse.FromString,
        )

    async def send_until(self, events: int) -> None:
        """Sends until so many events were sent since the beginning."""

        async def send() -> None:
            while self._sent < events:
                gives_up = self._random.random() < CANCELLED
                if self._random.random() < 1 / (1 + BATCHES_OF_STREAM):
                    await self._send_stream(gives_up=gives_up)
                else:
                    await self._send_unary(gives_up=gives_up)

        await asyncio.gather(*(send() for _ in range(CALLERS)))

    async def _send_unary(self, *, gives_up: bool) -> None:
        self._sent += BATCH_EVENTS
        call = self._record(self._requests.unary(), metadata=ADMIN)
        if gives_up:
            await self._give_up(call)
        else:
            await call

    async def _send_stream(self, *, gives_up: bool) -> None:
        self._sent += BATCH_EVENTS * BATCHES_OF_STREAM
        stream = self._stream(metadata=ADMIN)
        for number in range(1, BATCHES_OF_STREAM + 1):
            await stream.write(self._requests.stream(number))
        if gives_up:
            await self._give_up(stream)
            return
        await stream.done_writing()
        async for _ in stream:
            pass

    async def _give_up(self, call: grpc.aio.Call) -> None:
        await asyncio.sleep(self._random.uniform(0.0, 0.05))
        self.cancelled += call.cancel()
