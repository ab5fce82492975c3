"""The Stripe stand-in's pages: checkout sessions, the billing portal, saved cards; and metered prices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stripe_stand_in import DAY, HOUR, START, StandIn, running_stand_in

SESSIONS = "/v1/checkout/sessions"
URL = "https://example.com/done"
NOW = int(START.timestamp())


@pytest.fixture
async def stripe(tmp_path: Path) -> AsyncIterator[StandIn]:
    async with running_stand_in(tmp_path) as stand_in:
        yield stand_in


async def price_of(stripe: StandIn, amount: int = 4900, **recurring: Any) -> str:
    recurring = {"interval": "month", **recurring}
    product = {"name": "Starter"}
    price = await stripe.post(
        "/v1/prices", currency="usd", unit_amount=amount, recurring=recurring, product_data=product
    )
    return str(price["id"])


async def subscribing(stripe: StandIn, **params: Any) -> Any:
    items = [{"price": await price_of(stripe), "quantity": 1}]
    return await stripe.post(SESSIONS, mode="subscription", line_items=items, success_url=URL, **params)


async def complete(stripe: StandIn, session: Any, **params: Any) -> Any:
    return await stripe.post(f"/_simulator{SESSIONS.removeprefix('/v1')}/{session['id']}/complete", **params)


# ---- checkout


async def test_a_checkout_makes_the_customer_and_the_subscription_that_it_was_told_of(stripe: StandIn) -> None:
    session = await subscribing(
        stripe,
        customer_email="a@acme.example",
        client_reference_id="acme",
        subscription_data={"metadata": {"organization_id": "acme"}},
    )
    assert (session["status"], session["payment_status"], session["amount_total"]) == ("open", "unpaid", 4900)
    assert session["url"]
    assert (await stripe.get("/v1/customers"))["data"] == []
    done = await complete(stripe, session, name="Acme")
    assert (done["status"], done["payment_status"], done["url"]) == ("complete", "paid", None)
    assert done["client_reference_id"] == "acme"
    assert done["customer_details"]["email"] == "a@acme.example"
    customer = await stripe.get(f"/v1/customers/{done['customer']}")
    assert (customer["name"], customer["email"]) == ("Acme", "a@acme.example")
    sold = await stripe.get(f"/v1/subscriptions/{done['subscription']}")
    assert (sold["status"], sold["metadata"]) == ("active", {"organization_id": "acme"})
    assert sold["latest_invoice"] == done["invoice"]
    types = await stripe.event_types()
    assert types.index("customer.subscription.created") < types.index("checkout.session.completed")


async def test_a_checkout_for_a_customer_may_begin_with_a_trial(stripe: StandIn) -> None:
    customer = await stripe.customer(None)
    session = await subscribing(stripe, customer=customer["id"], subscription_data={"trial_period_days": 14})
    assert session["amount_total"] == 0
    done = await complete(stripe, session)
    assert (done["customer"], done["payment_status"]) == (customer["id"], "no_payment_required")
    sold = await stripe.get(f"/v1/subscriptions/{done['subscription']}")
    assert (sold["status"], sold["default_payment_method"] is None) == ("trialing", False)


async def test_a_card_that_is_declined_leaves_the_session_open_for_another(stripe: StandIn) -> None:
    session = await subscribing(stripe)
    path = f"/_simulator/checkout/sessions/{session['id']}/complete"
    declined = await stripe.refused("POST", path, payment_method="pm_card_chargeCustomerFail")
    assert declined["code"] == "card_declined"
    assert (await stripe.get("/v1/customers"))["data"] == []
    assert (await complete(stripe, session))["status"] == "complete"
    assert (await stripe.refused("POST", path))["status"] == 400


async def test_a_payment_is_made_once(stripe: StandIn) -> None:
    seat = {"currency": "usd", "unit_amount_decimal": "0.5", "product_data": {"name": "Minute"}}
    items = [{"price_data": seat, "quantity": 4_321}]
    session = await stripe.post(SESSIONS, mode="payment", line_items=items, success_url=URL)
    assert session["amount_total"] == 2_161
    done = await complete(stripe, session)
    assert (done["payment_status"], done["customer"]) == ("paid", None)
    intent = await stripe.get(f"/v1/payment_intents/{done['payment_intent']}")
    assert (intent["status"], intent["amount"]) == ("succeeded", 2_161)


async def test_a_setup_saves_the_card_for_its_customer(stripe: StandIn) -> None:
    customer = await stripe.customer(None)
    session = await stripe.post(
        SESSIONS,
        mode="setup",
        customer=customer["id"],
        currency="usd",
        success_url=URL,
        setup_intent_data={"metadata": {"plan": "pro"}},
        custom_text={"submit": {"message": "The first month is free."}},
    )
    assert session["custom_text"]["submit"] == {"message": "The first month is free."}
    done = await complete(stripe, session, payment_method="pm_card_mastercard")
    intent = await stripe.get(f"/v1/setup_intents/{done['setup_intent']}")
    assert (intent["status"], intent["metadata"]) == ("succeeded", {"plan": "pro"})
    cards = await stripe.get("/v1/payment_methods", customer=customer["id"])
    assert [card["id"] for card in cards["data"]] == [intent["payment_method"]]


async def test_a_session_expires_after_a_day_or_when_it_is_told_to(stripe: StandIn) -> None:
    forgotten, ended = await subscribing(stripe), await subscribing(stripe)
    await stripe.post(f"{SESSIONS}/{ended['id']}/expire")
    await stripe.advance(DAY - HOUR)
    assert (await stripe.get(f"{SESSIONS}/{forgotten['id']}"))["status"] == "open"
    await stripe.advance(HOUR)
    assert (await stripe.get(f"{SESSIONS}/{forgotten['id']}"))["status"] == "expired"
    assert (await stripe.event_types()).count("checkout.session.expired") == 2
    late = await stripe.refused("POST", f"/_simulator/checkout/sessions/{forgotten['id']}/complete")
    assert late["status"] == 400


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"mode": "subscription"}, "line_items"),
        ({"mode": "gift"}, "mode"),
        ({"mode": "setup", "expires_at": NOW + 60}, "expires_at"),
        ({"mode": "setup", "customer_creation": "always"}, "customer_creation"),
    ],
    ids=["no_items", "no_such_mode", "too_short", "creation_of_another_mode"],
)
async def test_a_session_that_asks_for_the_impossible_is_refused(
    stripe: StandIn, params: dict[str, Any], param: str
) -> None:
    assert (await stripe.refused("POST", SESSIONS, success_url=URL, **params))["param"] == param


# ---- the portal


async def test_a_portal_session_has_a_page_and_the_default_configuration(stripe: StandIn) -> None:
    customer = await stripe.customer()
    session = await stripe.post("/v1/billing_portal/sessions", customer=customer["id"], return_url=URL)
    assert session["url"]
    assert session["return_url"] == URL
    again = await stripe.post("/v1/billing_portal/sessions", customer=customer["id"])
    assert again["configuration"] == session["configuration"]


# ---- metered prices


async def metered(stripe: StandIn) -> tuple[str, str, Any]:
    """A customer of a clock, the clock, and a subscription to a metered price of 2 cents."""
    meter = await stripe.post(
        "/v1/billing/meters", display_name="m", event_name="minutes", default_aggregation={"formula": "sum"}
    )
    clock = (await stripe.post("/v1/test_helpers/test_clocks", frozen_time=NOW))["id"]
    customer = (await stripe.customer(test_clock=clock))["id"]
    price = await price_of(stripe, 2, usage_type="metered", meter=meter["id"])
    sold = await stripe.post("/v1/subscriptions", customer=customer, items=[{"price": price}])
    return customer, clock, sold


async def report(stripe: StandIn, customer: str, value: int, **params: Any) -> Any:
    payload = {"stripe_customer_id": customer, "value": str(value)}
    return await stripe.post("/v1/billing/meter_events", event_name="minutes", payload=payload, **params)


async def test_usage_is_billed_after_its_period(stripe: StandIn) -> None:
    customer, clock, sold = await metered(stripe)
    end = sold["items"]["data"][0]["current_period_end"]
    await report(stripe, customer, 100, timestamp=NOW + 60)
    await report(stripe, customer, 250, timestamp=NOW + 120)
    await stripe.post(f"/v1/test_helpers/test_clocks/{clock}/advance", frozen_time=end + 3_600)
    renewal = (await stripe.get("/v1/invoices", subscription=sold["id"]))["data"][0]
    assert (renewal["status"], renewal["total"], renewal["lines"]["data"][0]["quantity"]) == ("paid", 700, 350)


async def test_usage_is_billed_when_a_subscription_ends(stripe: StandIn) -> None:
    customer, _, sold = await metered(stripe)
    await report(stripe, customer, 100, timestamp=NOW - 60)
    await report(stripe, customer, 300, timestamp=NOW)
    await stripe.post("/v1/test_helpers/test_clocks", frozen_time=NOW)
    await stripe.post(f"/v1/subscriptions/{sold['id']}", cancel_at_period_end=True)
    end = sold["items"]["data"][0]["current_period_end"]
    await stripe.post(f"/v1/test_helpers/test_clocks/{sold['test_clock']}/advance", frozen_time=end)
    assert (await stripe.get(f"/v1/subscriptions/{sold['id']}"))["status"] == "canceled"
    assert (await stripe.get("/v1/invoices", subscription=sold["id"]))["data"][0]["total"] == 600


async def test_a_meter_event_counts_once_per_identifier_and_35_days_back(stripe: StandIn) -> None:
    customer = (await stripe.customer())["id"]
    await stripe.post(
        "/v1/billing/meters", display_name="m", event_name="minutes", default_aggregation={"formula": "sum"}
    )
    await report(stripe, customer, 5, identifier="e1")
    await report(stripe, customer, 5, timestamp=NOW - 35 * 86_400)
    refusals: dict[str, dict[str, Any]] = {
        "identifier": {"identifier": "e1"},
        "timestamp": {"timestamp": NOW - 35 * 86_400 - 1},
        "event_name": {"event_name": "unknown"},
        "payload[value]": {"payload": {"stripe_customer_id": customer, "value": "many"}},
        "payload[stripe_customer_id]": {"payload": {"value": "1"}},
    }
    usual: dict[str, Any] = {"event_name": "minutes", "payload": {"stripe_customer_id": customer, "value": "1"}}
    for param, params in refusals.items():
        refused = await stripe.refused("POST", "/v1/billing/meter_events", **(usual | params))
        assert (refused["status"], refused["type"], refused["param"]) == (400, "invalid_request_error", param)
    ahead = await stripe.refused("POST", "/v1/billing/meter_events", **usual, timestamp=NOW + 301)
    assert ahead["param"] == "timestamp"
    duplicate = await stripe.refused("POST", "/v1/billing/meter_events", **usual, identifier="e1")
    assert duplicate["message"] == "An event already exists with identifier e1."
