"""Checkout and portal, with the Stripe stand-in: a plan begins once, charged to what the customer left there."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from kit.errors import InvalidField, InvalidState
from kit.postgres.embedded import EmbeddedPostgres
from services.billing.application.begin_checkout import BeginCheckout
from services.billing.application.open_portal import OpenPortal
from services.billing.application.ports.stripe import HostedPage
from services.billing.domain.invoices import InvoiceState
from tests.integration.billing_scene import ACME, Scene, Simulator, billing_scene, running_simulator

# Stripe's library passes its body to httpx in a way that httpx has come to discourage; ours to read, not to fix.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

HOSTS = frozenset({"app.example.com"})
BACK = "https://app.example.com/billing"


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with running_simulator(tmp_path) as running:
        yield running


@pytest.fixture
async def scene(postgres: EmbeddedPostgres, simulator: Simulator) -> AsyncIterator[Scene]:
    async with billing_scene(postgres.url, simulator) as assembled:
        yield assembled


@pytest.fixture(autouse=True)
def quick_library_retries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("stripe._http_client.HTTPClient.INITIAL_DELAY", 0.01)
    monkeypatch.setattr("stripe._http_client.HTTPClient.MAX_DELAY", 0.02)
    return iter([None])


async def begin(scene: Scene, plan_id: str = "enterprise", *, url: str = BACK, request_id: str = "c") -> HostedPage:
    begin_checkout = BeginCheckout(
        books=scene.books,
        find_wanted_plan=scene.find_wanted_plan,
        subscription_in_force=scene.in_force,
        customers=scene.customers,
        checkouts=scene.checkouts,
        hosts=HOSTS,
        clock=scene.clock,
    )
    return await begin_checkout(ACME, plan_id, success_url=url, cancel_url=BACK, request_id=request_id)


async def plan(scene: Scene) -> str:
    async with scene.books.read(ACME) as book:
        current = await book.subscriptions.in_force()
    assert current is not None
    return current.plan_id


def complete(simulator: Simulator, page: HostedPage) -> None:
    simulator.form(f"/_simulator/checkout/sessions/{page.stripe_id}/complete", payment_method="pm_card_visa")


@pytest.mark.parametrize("seed", range(3))
async def test_what_was_bought_at_checkout_begins_once_however_often_it_is_told(
    scene: Scene, simulator: Simulator, seed: int
) -> None:
    page = await begin(scene)
    assert page.url
    await scene.deliver_all(simulator)
    assert await plan(scene) == "starter"
    complete(simulator, page)
    events = simulator.events() * 3
    random.Random(seed).shuffle(events)
    for event in events:
        await scene.deliver(event)
    (done,) = [event for event in simulator.events() if event["type"] == "checkout.session.completed"]
    await scene.deliver(done | {"id": "evt_once_more"})
    for _ in range(10):
        await scene.handle_all()
        scene.clock.advance(timedelta(minutes=10))
    assert await plan(scene) == "enterprise"
    changes = scene.rows("SELECT count(*) FROM billing.changes WHERE body ->> 'action' = 'change_plan'")
    assert changes == [(1,)]


async def test_b36_checkout_charges_nothing_and_the_first_invoice_goes_to_the_card_that_was_left(
    scene: Scene, simulator: Simulator
) -> None:
    complete(simulator, await begin(scene))
    await scene.deliver_all(simulator)
    assert simulator.call("GET", "/v1/charges")["data"] == []
    assert simulator.invoices() == []
    made = await scene.finalize()
    await scene.work_until_idle()
    await scene.deliver_all(simulator)
    assert (await scene.read(made)).state is InvoiceState.PAID
    assert [each["amount"] for each in simulator.call("GET", "/v1/charges")["data"]] == [made.total.minor]


async def test_the_same_request_is_the_same_page_and_another_one_is_another(scene: Scene) -> None:
    first = await begin(scene)
    assert await begin(scene) == first
    assert (await begin(scene, request_id="d")).stripe_id != first.stripe_id


async def test_a_checkout_of_somebody_elses_customer_changes_nothing(scene: Scene, simulator: Simulator) -> None:
    await begin(scene)
    other = simulator.form("/v1/customers", name="not ours")["id"]
    forged = simulator.form(
        "/v1/checkout/sessions",
        mode="setup",
        customer=other,
        currency="usd",
        success_url=BACK,
        metadata__tollbook_organization_id=ACME,
        metadata__tollbook_plan_id="enterprise",
    )
    simulator.form(f"/_simulator/checkout/sessions/{forged['id']}/complete", payment_method="pm_card_visa")
    await scene.deliver_all(simulator)
    assert await plan(scene) == "starter"


async def test_nobody_is_sent_back_to_a_host_that_was_not_named(scene: Scene, simulator: Simulator) -> None:
    with pytest.raises(InvalidField, match="success_url"):
        await begin(scene, url="https://app.example.com.evil.example/")
    assert [each for each in simulator.events() if each["type"].startswith("checkout")] == []


async def test_a_plan_in_force_is_not_sold_again(scene: Scene) -> None:
    with pytest.raises(InvalidState, match="already"):
        await begin(scene, "starter")


async def test_the_portal_is_the_customers_own(scene: Scene, simulator: Simulator) -> None:
    open_portal = OpenPortal(
        books=scene.books,
        subscription_in_force=scene.in_force,
        customers=scene.customers,
        checkouts=scene.checkouts,
        hosts=HOSTS,
        clock=scene.clock,
    )
    simulator.form("/v1/billing_portal/configurations", features__invoice_history__enabled="true")
    page = await open_portal(ACME, return_url=BACK)
    assert page.url
    async with scene.books.read(ACME) as book:
        assert await book.customer.stripe_id()
