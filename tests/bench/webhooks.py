"""M5: how fast Stripe's events are taken, verified and committed, against a handler that does nothing."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from time import perf_counter, time

import grpc

from kit.process import ChildProcess
from kit.testing.stores import free_port
from tests.bench.ground import Ground
from tests.bench.processes import cpu_seconds
from tests.bench.table import Figure, Floor, percentile
from tests.integration.billing_database import billing_database
from tests.metering_process import CHECKOUT
from tollbook.billing.v1 import stripe_webhook_pb2, stripe_webhook_pb2_grpc

SECRET = "whsec_bench"
CALLERS = 32
_NUMBERS = count(1)
_PADDING = "x" * 3_000
"""An invoice's event is three to four kilobytes."""

Requests = Sequence[stripe_webhook_pb2.HandleStripeEventRequest]


class _Door:
    """A running webhook."""

    def __init__(self, channel: grpc.aio.Channel, pid: int) -> None:
        self._stub = stripe_webhook_pb2_grpc.StripeWebhookServiceStub(channel)
        self.pid = pid

    async def take(self, requests: Requests, *, callers: int = CALLERS) -> tuple[float, list[float]]:
        """Events a second, with so many under way at once, and the milliseconds of each."""
        waiting, taken = iter(requests), list[float]()

        async def call() -> None:
            for request in waiting:
                began = perf_counter()
                await self._stub.HandleStripeEvent(request)
                taken.append((perf_counter() - began) * 1e3)

        began = perf_counter()
        await asyncio.gather(*(call() for _ in range(callers)))
        return len(requests) / (perf_counter() - began), taken

    async def take_at(self, requests: Requests, *, every_seconds: float) -> list[float]:
        """The milliseconds of each, sent when it is due, whatever became of the last one."""

        async def call(request: stripe_webhook_pb2.HandleStripeEventRequest, due: float) -> float:
            await asyncio.sleep(max(0.0, due - perf_counter()))
            await self._stub.HandleStripeEvent(request)
            return (perf_counter() - due) * 1e3

        began = perf_counter() + 0.1
        calls = (call(request, began + number * every_seconds) for number, request in enumerate(requests))
        return list(await asyncio.gather(*calls))


def fresh_events(event_count: int) -> Requests:
    """Signed events that were never sent before, each of another customer."""
    return [_event(next(_NUMBERS)) for _ in range(event_count)]


def _event(number: int) -> stripe_webhook_pb2.HandleStripeEventRequest:
    about = {"id": f"in_{number}", "object": "invoice", "customer": f"cus_{number}", "description": _PADDING}
    event = {"id": f"evt_bench_{number}", "object": "event", "type": "invoice.paid", "data": {"object": about}}
    payload, timestamp = json.dumps(event).encode(), int(time())
    digest = hmac.new(SECRET.encode(), f"{timestamp}.".encode() + payload, hashlib.sha256).hexdigest()
    return stripe_webhook_pb2.HandleStripeEventRequest(payload=payload, signature=f"t={timestamp},v1={digest}")


@asynccontextmanager
async def _door(folder: Path, name: str, *fleet_url: str) -> AsyncIterator[_Door]:
    address = f"127.0.0.1:{free_port()}"
    process = ChildProcess(
        [sys.executable, "-m", "tests.bench.webhook_server", address, SECRET, *fleet_url],
        environment={"PATH": os.environ["PATH"]},
        working_folder=CHECKOUT,
        log_path=folder / f"{name}.log",
    )
    await process.start()
    try:
        assert process.pid is not None
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
            yield _Door(channel, process.pid)
    finally:
        await process.stop(signal.SIGTERM, 5)


async def webhooks(ground: Ground) -> list[Figure]:
    """M5."""
    event_count = max(1_000, ground.sizes.events // 5)
    rates, empty_rates, ratios, tails = list[float](), list[float](), list[float](), list[float]()
    cpu, empty_cpu = list[float](), list[float]()
    async with AsyncExitStack() as running:
        database = await running.enter_async_context(billing_database(ground.server.url))
        door = await running.enter_async_context(_door(ground.folder, "webhook", database.fleet_url))
        empty = await running.enter_async_context(_door(ground.folder, "webhook-empty"))
        for warming in (door, empty):
            await warming.take(fresh_events(500))
        before, _ = await empty.take(fresh_events(event_count))
        for _ in range(ground.sizes.rounds):
            events = fresh_events(event_count)
            used = cpu_seconds(door.pid)
            rate, _ = await door.take(events)
            cpu.append((cpu_seconds(door.pid) - used) / event_count * 1e6)
            used = cpu_seconds(empty.pid)
            after, _ = await empty.take(fresh_events(event_count))
            empty_cpu.append((cpu_seconds(empty.pid) - used) / event_count * 1e6)
            rates.append(rate)
            empty_rates.append(after)
            ratios.append(rate / ((before + after) / 2))
            before = after
            paced = await door.take_at(fresh_events(event_count // 2), every_seconds=2 / rate)
            tails.append(percentile(paced, 0.99))
    return [
        Figure(id="M5", name="webhook, empty handler", rounds=empty_rates, unit="events/s", digits=0),
        Figure(id="M5", name="webhook, verified and committed", rounds=rates, unit="events/s", digits=0),
        Figure(id="M5", name="the same / empty handler", rounds=ratios, unit="", floor=Floor(at_least=0.3)),
        Figure(id="M5", name="p99 at half of that", rounds=tails, unit="ms", digits=1, floor=Floor(at_most=50)),
        Figure(id="M5", name="CPU of the webhook", rounds=cpu, unit="µs/event", digits=0),
        Figure(id="M5", name="CPU of the empty handler", rounds=empty_cpu, unit="µs/event", digits=0),
    ]
