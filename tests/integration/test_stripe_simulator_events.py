"""The Stripe stand-in's events in the shapes of an older API version, and what time does to idempotency keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stripe_stand_in import HOUR, StandIn, running_stand_in
from tools.stripe_simulator.older_shapes import before

OLDER = "2024-06-20"


@pytest.fixture
async def stripe(tmp_path: Path) -> AsyncIterator[StandIn]:
    async with running_stand_in(tmp_path) as stand_in:
        yield stand_in


async def write_events_as(stripe: StandIn, version: str) -> None:
    answer = await stripe.send("POST", "/_simulator/events/version", {"api_version": version})
    assert answer.status_code == 200


async def last(stripe: StandIn, event_type: str) -> Any:
    return [event for event in await stripe.events() if event["type"] == event_type][-1]


async def renewing(stripe: StandIn) -> Any:
    """A subscription that renews now."""
    price = await stripe.post(
        "/v1/prices",
        currency="usd",
        unit_amount=4900,
        recurring={"interval": "month"},
        product_data={"name": "Starter"},
    )
    customer = await stripe.customer()
    items = [{"price": price["id"], "quantity": 1}]
    sold = await stripe.post("/v1/subscriptions", customer=customer["id"], items=items, metadata={"a": "b"})
    await stripe.post("/v1/invoiceitems", customer=customer["id"], amount=700, currency="usd")
    await stripe.advance(timedelta(days=28) + HOUR)
    return await stripe.get(f"/v1/subscriptions/{sold['id']}")


async def test_older_events_have_the_period_on_the_subscription(stripe: StandIn) -> None:
    await write_events_as(stripe, OLDER)
    sold = await renewing(stripe)
    item = sold["items"]["data"][0]
    event = await last(stripe, "customer.subscription.updated")
    told = event["data"]["object"]
    assert event["api_version"] == OLDER
    assert told["current_period_end"] == item["current_period_end"]
    assert told["current_period_start"] == item["current_period_start"]
    assert (told["plan"]["amount"], told["quantity"]) == (4900, 1)
    assert "current_period_end" not in told["items"]["data"][0]
    moved = [
        event["data"]["previous_attributes"]["current_period_start"]
        for event in await stripe.events()
        if event["type"] == "customer.subscription.updated"
        and "current_period_start" in event["data"]["previous_attributes"]
    ]
    assert moved == [sold["start_date"]]


async def test_older_events_have_the_subscription_and_the_payment_on_the_invoice(stripe: StandIn) -> None:
    await write_events_as(stripe, OLDER)
    sold = await renewing(stripe)
    told = (await last(stripe, "invoice.paid"))["data"]["object"]
    assert (told["subscription"], told["paid"], "parent" in told) == (sold["id"], True, False)
    assert told["subscription_details"] == {"metadata": {"a": "b"}}
    intent = await stripe.get(f"/v1/payment_intents/{told['payment_intent']}")
    assert told["charge"] == intent["latest_charge"]
    first, second = told["lines"]["data"]
    assert (first["type"], first["subscription_item"]) == ("subscription", sold["items"]["data"][0]["id"])
    assert first["price"]["unit_amount"] == 4900
    assert second["type"] == "invoiceitem"
    assert second["invoice_item"]
    assert (await last(stripe, "charge.succeeded"))["data"]["object"]["invoice"] == told["id"]


async def test_calls_are_answered_in_todays_shapes_whatever_events_are_written_in(stripe: StandIn) -> None:
    await write_events_as(stripe, OLDER)
    sold = await renewing(stripe)
    assert "current_period_end" not in sold
    await write_events_as(stripe, "2026-10-28.endive")
    await stripe.delete(f"/v1/subscriptions/{sold['id']}")
    ended = await last(stripe, "customer.subscription.deleted")
    assert "current_period_end" not in ended["data"]["object"]
    assert (await stripe.send("POST", "/_simulator/events/version", {"api_version": "1999"})).status_code == 400


def test_what_an_object_was_is_made_of_what_it_is_and_the_old_values() -> None:
    now = {"id": "1", "at": {"paid": 7, "final": 5}, "lines": [1, 2], "note": "n"}
    assert before(now, {"at": {"paid": None}, "lines": [1], "note": None}) == {
        "id": "1",
        "at": {"paid": None, "final": 5},
        "lines": [1],
        "note": None,
    }


async def test_a_key_is_free_again_a_day_later_by_the_clock_that_is_moved(stripe: StandIn) -> None:
    async def create() -> str:
        answer = await stripe.send("POST", "/v1/customers", {"name": "Acme"}, key="customer-1")
        return str(answer.json()["id"])

    first = await create()
    await stripe.advance(23 * HOUR)
    assert await create() == first
    await stripe.advance(2 * HOUR)
    assert await create() != first
