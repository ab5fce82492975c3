"""The webhook alone: `python -m tests.bench.webhook_server ADDRESS SECRET [FLEET_URL]`.

The server of every service (interceptor, deadlines, measures) with the webhook's servicer behind it. Without a database
it is the baseline: the same process, the same message, and nothing done with it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack

import uvloop
from grpc_health.v1 import health

from kit.clock import SystemClock
from kit.grpc.identity import Authenticator
from kit.grpc.interceptor import Gate
from kit.grpc.server import Application, build_server
from kit.postgres.database import Database
from kit.testing.servers import KnownKeys
from services.billing.adapters.postgres_lists import PostgresStripeInbox
from services.billing.application.store_stripe_event import StoreStripeEvent
from services.billing.rpc.stripe_webhook_servicer import StripeWebhookServicer


class _StoreNothing(StoreStripeEvent):
    async def __call__(self, payload: bytes, signature: str) -> None:
        """The baseline."""


async def _serve(address: str, secret: str, fleet_url: str) -> None:
    async with AsyncExitStack() as resources:
        fleet = Database(fleet_url or "postgresql://nobody@127.0.0.1:1/none")
        resources.push_async_callback(fleet.close)
        kind = StoreStripeEvent if fleet_url else _StoreNothing
        store = kind(PostgresStripeInbox(fleet), [secret], SystemClock())

        async def prepare() -> None:
            return None

        application = Application(
            authenticator=Authenticator(KnownKeys({}), {}),
            servicers=[StripeWebhookServicer(store_stripe_event=store)],
            prepare=prepare,
        )
        gate = Gate()
        gate.is_open = True
        server = build_server("bench", application, gate, health.aio.HealthServicer())
        server.add_insecure_port(address)
        await server.start()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        await server.stop(1.0)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""))
