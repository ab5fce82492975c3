"""From a failed payment to quota's answer and back: billing's workers, the Stripe stand-in, the real quota service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kit.head_watch import HeadWatch
from kit.postgres.embedded import EmbeddedPostgres
from kit.redis.embedded import EmbeddedRedis
from services.billing.adapters.postgres_books.entitlements import PostgresEntitlementHeads
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.application.find_plan import FindPlan
from services.billing.application.read_entitlements import ReadEntitlements
from services.billing.domain.invoices import InvoiceState
from services.billing.rpc.entitlement_servicer import EntitlementServicer
from tests.integration.billing_scene import Scene, Simulator, billing_scene, running_simulator
from tests.integration.test_billing_lifecycle import becomes
from tests.integration.test_quota_process import Suite, own_redis, suite_on
from tests.unit.billing.plans import MINUTE
from tollbook.quota.v1 import quota_pb2

__all__ = ["own_redis"]

# Stripe's library passes its body to httpx in a way that httpx has come to discourage; ours to read, not to fix.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

SUSPENDED = quota_pb2.DENY_REASON_SUSPENDED


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with running_simulator(tmp_path) as running:
        yield running


@pytest.fixture
async def scene(postgres: EmbeddedPostgres, simulator: Simulator) -> AsyncIterator[Scene]:
    async with billing_scene(postgres.url, simulator) as assembled:
        yield assembled


@pytest.fixture
async def suite(
    tmp_path: Path, own_redis: EmbeddedRedis, migrated: Callable[[str], dict[str, str]], scene: Scene
) -> AsyncIterator[Suite]:
    plans = PostgresPlans(scene.database.tenant, scene.database.fleet)
    reading = ReadEntitlements(scene.books, FindPlan(scene.books, plans), scene.in_force, scene.clock)
    feed = EntitlementServicer(
        heads=HeadWatch(PostgresEntitlementHeads(scene.database.fleet).heads), read_entitlements=reading
    )
    async with suite_on(tmp_path, own_redis, migrated("quota"), feed=feed) as running:
        yield running


async def test_quota_denies_who_did_not_pay_after_the_grace_and_allows_again_when_the_money_comes(
    scene: Scene, simulator: Simulator, suite: Suite
) -> None:
    await becomes(suite, limit=1_000 * MINUTE)
    await scene.customer_with(simulator, "pm_card_chargeCustomerFail")
    made = await scene.finalize()
    await scene.work_until_idle()
    await scene.deliver_all(simulator)
    unpaid = await scene.read(made)
    assert (unpaid.state, await scene.status()) == (InvoiceState.PAST_DUE, "PAST_DUE")
    # Grace: nothing is denied for fourteen days.
    await becomes(suite, limit=1_000 * MINUTE)
    for _ in range(15):
        while await scene.dun():
            pass
        await scene.pass_time(simulator, days=1)
    await becomes(suite, limit=1_000 * MINUTE, deny_reason=SUSPENDED)
    simulator.form(f"/v1/invoices/{unpaid.stripe_invoice_id}/pay", paid_out_of_band="true")
    await scene.deliver_all(simulator)
    await becomes(suite, limit=1_000 * MINUTE)
