"""Billing as a process that is killed while it works Stripe's events off (F25)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
from pathlib import Path

import psycopg
import pytest

from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.stores import free_port
from tests.integration.billing_scene import API_KEY, SECRET, Scene, Simulator, billing_scene, running_simulator
from tests.integration.test_billing_service import SERVICE_KEY, billing, peers

# Stripe's library passes its body to httpx in a way that httpx has come to discourage; ours to read, not to fix.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

__all__ = ["peers"]

HANDLED_WITHIN_SECONDS = 90
_ENDS = {"paid": "PAID", "void": "VOID", "uncollectible": "UNCOLLECTIBLE", "open": "PAST_DUE"}


def environment(scene: Scene, simulator: Simulator, peers: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "TOLLBOOK_LISTEN_ADDRESS": f"127.0.0.1:{free_port()}",
        "TOLLBOOK_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
        "TOLLBOOK_SERVICE_KEY": SERVICE_KEY,
        "TOLLBOOK_SERVICE_KEY_HASHES": json.dumps({"billing": hashlib.sha256(SERVICE_KEY.encode()).hexdigest()}),
        "TOLLBOOK_POSTGRES_TENANT_URL": scene.database.tenant_url,
        "TOLLBOOK_POSTGRES_FLEET_URL": scene.database.fleet_url,
        "TOLLBOOK_METERING_ADDRESS": peers,
        "TOLLBOOK_ACCOUNTS_ADDRESS": peers,
        "STRIPE_API_KEY": API_KEY,
        "STRIPE_API_BASE": simulator.url,
        "STRIPE_WEBHOOK_SECRET": SECRET,
    }


def waiting(scene: Scene) -> int:
    ((count,),) = scene.rows("SELECT count(*) FROM billing.stripe_events WHERE handle_time IS NULL")
    return int(count)


def end_leases(scene: Scene) -> None:
    """As if the time had passed for which a dead worker has what it claimed."""
    with psycopg.connect(scene.database.owner_url) as owner:
        owner.execute("UPDATE billing.stripe_events SET next_attempt_time = now() WHERE handle_time IS NULL")


async def handled_down_to(scene: Scene, count: int) -> None:
    async with asyncio.timeout(HANDLED_WITHIN_SECONDS):
        # Another process handles them: nothing here can be waited for but what it writes.
        while waiting(scene) > count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_f25_a_process_killed_again_and_again_under_shuffled_events_ends_where_stripe_is(
    postgres: EmbeddedPostgres, peers: str, tmp_path: Path
) -> None:
    chance = random.Random(25)
    async with running_simulator(tmp_path) as simulator, billing_scene(postgres.url, simulator) as scene:
        await scene.customer_with(simulator, "pm_card_chargeCustomerFail")
        made = [await scene.finalize(months=months) for months in range(5)]
        while await scene.collect():
            pass
        theirs = [(await scene.read(invoice)).stripe_invoice_id for invoice in made]
        simulator.form(f"/v1/invoices/{theirs[0]}/pay", paid_out_of_band="true")
        simulator.form(f"/v1/invoices/{theirs[1]}/void")
        simulator.form(f"/v1/invoices/{theirs[2]}/mark_uncollectible")
        # Each three times: twice under its own id, and told anew under another.
        told = [event | {"id": event["id"] + suffix} for event in simulator.events() for suffix in ("", "", "_again")]
        chance.shuffle(told)
        parts = [told[number::4] for number in range(4)]
        process = billing(environment(scene, simulator, peers), tmp_path)
        for part in parts:
            for event in part:
                await scene.deliver(event)
            end_leases(scene)
            await process.start()
            # Somewhere in the middle of it, wherever that is.
            await handled_down_to(scene, chance.randrange(waiting(scene)))
            await process.stop(signal.SIGKILL, 15)
        end_leases(scene)
        await process.start()
        await handled_down_to(scene, 0)
        await process.stop(signal.SIGTERM, 15)
        for invoice, stripe_id in zip(made, theirs, strict=True):
            status = simulator.call("GET", f"/v1/invoices/{stripe_id}")["status"]
            assert (await scene.read(invoice)).state.value == _ENDS[status]
        assert await scene.status() == "SUSPENDED"
        changes = scene.rows("SELECT kind, body ->> 'invoice_id', count(*) FROM billing.changes GROUP BY 1, 2")
        assert all(count == 1 for kind, about, count in changes if kind.startswith("invoice_") and about)
