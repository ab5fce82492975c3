"""F29: the process that closes and collects is killed in the middle of it; two others finish what it began."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kit.clock import SystemClock
from kit.process import ChildProcess
from kit.testing.clock import FakeClock
from kit.testing.stores import free_port
from kit.testing.toxic import Toxic, ToxicProxy
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_close_list import PostgresCloseList
from tests.integration.billing_database import BillingDatabase
from tests.integration.billing_scene import API_KEY, Simulator, running_simulator
from tests.integration.test_billing_service import COMMAND, database, environment, peers
from tests.metering_process import port_of
from tests.unit.billing.closing_house import Ledger, hands_of
from tests.unit.billing.plans import PLANS

__all__ = ["database", "environment", "peers"]

ORGANIZATIONS = [f"org-{number}" for number in range(40)]
SOLD = timedelta(days=40)
"""So long ago: the opening and the first period of each are due, and no more."""
INVOICES = 2 * len(ORGANIZATIONS)
STEPS = {
    "before the commit of the 17th invoice": ((b"TB-000017", b"COMMIT"), Toxic.HOLD),
    "after the commit of the 17th invoice": ((b"TB-000017", b"COMMIT"), Toxic.HOLD_ANSWER),
    "when Stripe has an invoice and we have not noted it": ((b"SET stripe_invoice_id", b"COMMIT"), Toxic.HOLD),
}
REACHED_SECONDS, DONE_SECONDS, STOP_SECONDS = 60, 180, 20


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with running_simulator(tmp_path) as running:
        yield running


async def sell(database: BillingDatabase) -> None:
    """Puts every organization on a plan, at its time."""
    books, plans = PostgresBooks(database.tenant), PostgresPlans(database.tenant, database.fleet)
    clock = FakeClock(SystemClock().now() - SOLD)
    await plans.apply(PLANS, request_id="stock", digest=b"", actor="tests")
    hands = hands_of(books, plans, PostgresCloseList(database.fleet), Ledger(), clock)
    for organization_id in ORGANIZATIONS:
        await hands.create(organization_id, "starter", start_time=None, request_id=organization_id, actor="tests")


@asynccontextmanager
async def billing(environment: dict[str, str], log_path: Path) -> AsyncIterator[ChildProcess]:
    """A process of billing on ports of its own."""
    addresses = {name: f"127.0.0.1:{free_port()}" for name in ("TOLLBOOK_LISTEN_ADDRESS", "TOLLBOOK_METRICS_ADDRESS")}
    process = ChildProcess(COMMAND, environment=environment | addresses, log_path=log_path)
    await process.start()
    try:
        yield process
    finally:
        await process.stop(signal.SIGTERM, STOP_SECONDS)


def rows(database: BillingDatabase, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database.owner_url) as owner:
        return owner.execute(query.encode()).fetchall()


def is_done(database: BillingDatabase) -> bool:
    """Whether nothing is due or claimed any more, neither to close nor to collect."""
    due = (
        "SELECT count(*) FROM billing.due_closes WHERE next_attempt_time < now() + interval '1 hour'"
        " UNION ALL SELECT count(*) FROM billing.due_invoices"
    )
    return rows(database, due) == [(0,), (0,)]


async def require_done(database: BillingDatabase) -> None:
    """Waits until everything is done."""
    async with asyncio.timeout(DONE_SECONDS):
        # Other processes do it: nothing here can be waited for but what they leave.
        while not is_done(database):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("step", STEPS)
async def test_f29_a_process_killed_among_its_closes_leaves_one_invoice_a_cut_without_gap_collected_once(
    step: str, database: BillingDatabase, environment: dict[str, str], simulator: Simulator, tmp_path: Path
) -> None:
    await sell(database)
    settings = environment | {"STRIPE_API_KEY": API_KEY, "STRIPE_API_BASE": simulator.url}
    port, log_path = port_of(database.owner_url), tmp_path / "billing.log"
    needles, toxic = STEPS[step]
    async with ToxicProxy(port) as proxy:
        through = {name: value.replace(f":{port}/", f":{proxy.port}/") for name, value in settings.items()}
        rule = proxy.when(*needles, toxic=toxic)
        async with billing(through, log_path) as doomed:
            await asyncio.wait_for(rule.reached.wait(), REACHED_SECONDS)
            assert await doomed.stop(signal.SIGKILL, STOP_SECONDS) == -signal.SIGKILL
            rule.drop()
    assert rows(database, "SELECT 1 FROM billing.invoices")
    assert not is_done(database)
    with psycopg.connect(database.owner_url) as owner:
        # What the dead one had claimed is free again, two minutes later.
        for table in ("due_closes", "due_invoices"):
            soon = "next_attempt_time < now() + interval '1 hour'"
            owner.execute(f"UPDATE billing.{table} SET next_attempt_time = now() WHERE {soon}".encode())  # noqa: S608 - names from above
    async with billing(settings, log_path) as first, billing(settings, log_path) as second:
        await require_done(database)
        assert first.running
        assert second.running
    require_once(database, simulator)


def require_once(database: BillingDatabase, simulator: Simulator) -> None:
    """Every cut made one invoice, the numbers have no gap, and Stripe has each invoice once."""
    cuts = rows(
        database,
        "SELECT organization_id, cut, count(*), count(DISTINCT invoice_id) FROM billing.closes"
        " GROUP BY 1, 2 ORDER BY 1, 2",
    )
    assert cuts == [(name, cut, 1, 1) for name in sorted(ORGANIZATIONS) for cut in ("OPENING", "PERIOD")]
    ours = rows(database, "SELECT number, total_minor, stripe_invoice_id FROM billing.invoices ORDER BY number")
    assert [number for number, _, _ in ours] == [f"TB-{number:06}" for number in range(1, INVOICES + 1)]
    assert rows(database, "SELECT last_number FROM billing.invoice_numbers") == [(INVOICES,)]
    # The plan's price; then the next month's with 100 minutes beyond what was included in the first.
    assert sorted(int(total) for _, total, _ in ours) == [4900] * len(ORGANIZATIONS) + [5400] * len(ORGANIZATIONS)
    theirs = [(each["number"], each["total"], each["id"]) for each in simulator.invoices()]
    assert sorted(theirs) == [(number, int(total), stripe_id) for number, total, stripe_id in ours]
    assert len(simulator.call("GET", "/v1/customers?limit=100")["data"]) == len(ORGANIZATIONS)
