"""Subscriptions that were made at Stripe, and the drafts that Stripe makes for them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kit.postgres.embedded import EmbeddedPostgres
from services.billing.domain.invoices import InvoiceState
from tests.integration.billing_scene import ACME, Scene, Simulator, billing_scene, running_simulator

# Stripe's library passes its body to httpx in a way that httpx has come to discourage; ours to read, not to fix.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


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


def price(simulator: Simulator, plan_id: str) -> str:
    product = simulator.form("/v1/products", name=plan_id)["id"]
    made = simulator.form(
        "/v1/prices",
        product=product,
        currency="usd",
        unit_amount="4900",
        recurring__interval="month",
        metadata__tollbook_plan_id=plan_id,
    )
    return str(made["id"])


async def subscribe(scene: Scene, simulator: Simulator, plan_id: str, **fields: str) -> Any:
    customer = await scene.customer_with(simulator, "pm_card_visa")
    return simulator.form(
        "/v1/subscriptions",
        customer=customer,
        items__0__price=price(simulator, plan_id),
        metadata__tollbook_organization_id=ACME,
        **fields,
    )


async def plan(scene: Scene) -> str:
    async with scene.books.read(ACME) as book:
        current = await book.subscriptions.in_force()
    assert current is not None
    return current.plan_id


async def test_a_subscription_made_at_stripe_changes_the_tier_and_its_end_is_free(
    scene: Scene, simulator: Simulator
) -> None:
    made = await subscribe(scene, simulator, "enterprise")
    await scene.deliver_all(simulator)
    assert await plan(scene) == "enterprise"
    item = made["items"]["data"][0]["id"]
    path = f"/v1/subscriptions/{made['id']}"
    other = price(simulator, "starter")
    simulator.form(path, items__0__id=item, items__0__price=other, proration_behavior="none")
    await scene.deliver_all(simulator)
    assert await plan(scene) == "starter"
    simulator.call("DELETE", path)
    await scene.deliver_all(simulator)
    assert await plan(scene) == "free"
    await subscribe(scene, simulator, "starter")
    await scene.deliver_all(simulator)
    assert await plan(scene) == "starter"


@pytest.mark.parametrize("seed", range(3))
async def test_f25_the_events_of_a_subscription_in_any_order_lead_to_what_it_is_now(
    scene: Scene, simulator: Simulator, seed: int
) -> None:
    first = await subscribe(scene, simulator, "starter")
    simulator.call("DELETE", f"/v1/subscriptions/{first['id']}")
    await subscribe(scene, simulator, "enterprise")
    events = simulator.events() * 3
    random.Random(seed).shuffle(events)
    for event in events:
        await scene.deliver(event)
    for _ in range(20):
        await scene.handle_all()
        scene.clock.advance(timedelta(minutes=10))
    assert await plan(scene) == "enterprise"
    assert scene.rows("SELECT count(*) FROM billing.stripe_events WHERE handle_time IS NULL") == [(0,)]


async def test_a_plan_that_nobody_knows_changes_nothing_and_holds_nothing_up(
    scene: Scene, simulator: Simulator
) -> None:
    await subscribe(scene, simulator, "platinum")
    await scene.deliver_all(simulator)
    assert await plan(scene) == "starter"
    assert scene.rows("SELECT count(*) FROM billing.stripe_events WHERE handle_time IS NULL") == [(0,)]


async def renewal(scene: Scene, simulator: Simulator) -> Any:
    """Stripe's draft for the first month after a trial, told but not yet final."""
    await subscribe(scene, simulator, "starter", trial_period_days="2")
    await scene.deliver_all(simulator)
    await scene.pass_time(simulator, days=2, minutes=1)
    (draft,) = [each for each in simulator.invoices() if each["status"] == "draft"]
    await scene.deliver_all(simulator)
    return simulator.call("GET", f"/v1/invoices/{draft['id']}")


async def test_stripes_draft_is_held_and_charges_what_our_invoice_says(scene: Scene, simulator: Simulator) -> None:
    draft = await renewal(scene, simulator)
    assert (draft["status"], draft["auto_advance"]) == ("draft", False)
    # Longer than the hour after which Stripe would have finalized it.
    await scene.pass_time(simulator, hours=5)
    assert simulator.call("GET", f"/v1/invoices/{draft['id']}")["status"] == "draft"
    made = await scene.finalize()
    await scene.work_until_idle()
    theirs = simulator.call("GET", f"/v1/invoices/{draft['id']}")
    assert (theirs["number"], theirs["total"], theirs["status"]) == (made.number, 5400, "paid")
    lines = simulator.call("GET", f"/v1/invoices/{draft['id']}/lines")["data"]
    assert sorted(line["amount"] for line in lines) == sorted(line.amount.minor for line in made.lines)
    await scene.deliver_all(simulator)
    ours = await scene.read(made)
    assert (ours.state, ours.stripe_invoice_id) == (InvoiceState.PAID, draft["id"])


async def test_stripes_draft_is_not_charged_where_our_invoice_has_a_term(scene: Scene, simulator: Simulator) -> None:
    draft = await renewal(scene, simulator)
    charges = len(simulator.call("GET", "/v1/charges")["data"])
    made = await scene.finalize(term_days=14)
    await scene.work_until_idle()
    await scene.pass_time(simulator, hours=5)
    theirs = simulator.call("GET", f"/v1/invoices/{draft['id']}")
    assert (theirs["number"], theirs["status"], theirs["collection_method"]) == (made.number, "open", "send_invoice")
    assert len(simulator.call("GET", "/v1/charges")["data"]) == charges


@pytest.mark.parametrize("call", ["", "/add_lines", "/remove_lines", "/finalize"])
@pytest.mark.parametrize("kind", ["500", "500_saved", "429"])
async def test_whatever_call_fails_a_held_draft_becomes_our_one_invoice(
    scene: Scene, simulator: Simulator, call: str, kind: str
) -> None:
    draft = await renewal(scene, simulator)
    made = await scene.finalize()
    simulator.inject({"path": f"/v1/invoices/{draft['id']}{call}", "kind": kind, "count": 4})
    await scene.work_until_idle()
    ours = [each for each in simulator.invoices() if each["metadata"].get("tollbook_invoice_id")]
    assert [(each["id"], each["total"], each["status"]) for each in ours] == [(draft["id"], 5400, "paid")]
    assert (await scene.read(made)).stripe_invoice_id == draft["id"]


async def test_a_draft_that_stripe_finalized_before_it_could_be_filled_parks_our_invoice_with_both_sides(
    scene: Scene, simulator: Simulator
) -> None:
    draft = await renewal(scene, simulator)
    simulator.form(f"/v1/invoices/{draft['id']}/finalize")
    await scene.finalize()
    await scene.work_until_idle()
    ((reason,),) = scene.rows("SELECT parked_reason FROM billing.due_invoices")
    assert draft["id"] in reason
    assert "4900" in reason
    assert "5400" in reason


async def test_what_stripe_charged_another_customer_of_ours_is_not_charged_again_and_parks_our_invoice(
    scene: Scene, simulator: Simulator
) -> None:
    await subscribe(scene, simulator, "starter")
    await scene.deliver_all(simulator)
    (charged,) = simulator.invoices()
    other = simulator.form("/v1/customers", name="acme")["id"]
    async with scene.books.open(ACME) as book:
        await book.customer.forget_stripe_id(charged["customer"])
        await book.customer.set_stripe_id(other)
    await scene.finalize(minutes=0)
    await scene.work_until_idle()
    assert [each["id"] for each in simulator.invoices()] == [charged["id"]]
    ((reason,),) = scene.rows("SELECT parked_reason FROM billing.due_invoices")
    for each in (charged["id"], charged["customer"], other):
        assert each in reason


async def test_a_draft_that_is_gone_gives_way_to_one_of_ours(scene: Scene, simulator: Simulator) -> None:
    draft = await renewal(scene, simulator)
    simulator.form(f"/v1/invoices/{draft['id']}/finalize", auto_advance="false")
    simulator.form(f"/v1/invoices/{draft['id']}/void")
    made = await scene.finalize()
    await scene.work_until_idle()
    ours = await scene.read(made)
    assert ours.stripe_invoice_id
    assert ours.stripe_invoice_id != draft["id"]


async def test_what_stripe_charged_at_once_for_a_subscription_is_our_opening_invoice_and_not_charged_again(
    scene: Scene, simulator: Simulator
) -> None:
    await subscribe(scene, simulator, "starter")
    await scene.deliver_all(simulator)
    (charged,) = simulator.invoices()
    assert (charged["status"], charged["total"]) == ("paid", 4900)
    opening = await scene.finalize(minutes=0)
    assert opening.total.minor == 4900
    await scene.work_until_idle()
    ours = await scene.read(opening)
    assert (ours.state, ours.stripe_invoice_id) == (InvoiceState.PAID, charged["id"])
    assert len(simulator.invoices()) == 1


async def test_what_stripe_charged_at_once_and_is_another_amount_than_ours_parks_it(
    scene: Scene, simulator: Simulator
) -> None:
    await subscribe(scene, simulator, "starter")
    await scene.deliver_all(simulator)
    await scene.finalize()
    await scene.work_until_idle()
    ((reason,),) = scene.rows("SELECT parked_reason FROM billing.due_invoices")
    assert "4900" in reason
    assert len(simulator.invoices()) == 1


async def test_drafts_of_somebody_else_in_the_same_account_are_left_alone(scene: Scene, simulator: Simulator) -> None:
    customer = simulator.form("/v1/customers", name="not ours")["id"]
    simulator.form("/v1/payment_methods/pm_card_visa/attach", customer=customer)
    simulator.form(
        "/v1/subscriptions", customer=customer, items__0__price=price(simulator, "starter"), trial_period_days="3"
    )
    await scene.pass_time(simulator, days=3, minutes=1)
    await scene.deliver_all(simulator)
    assert scene.rows("SELECT * FROM billing.stripe_drafts") == []
    assert all(each["auto_advance"] or each["status"] != "draft" for each in simulator.invoices())
