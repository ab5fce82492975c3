"""A story in which every operation of the Stripe stand-in is called at least once, with most of its parameters."""

from __future__ import annotations

from tests.integration.stripe_stand_in import DAY, START, StandIn


async def tell(stripe: StandIn) -> None:
    """Calls everything; what follows from what is another test's matter."""
    await _customers_and_cards(stripe)
    await _catalog(stripe)
    await _invoices(stripe)
    await _money_back(stripe)
    await _subscriptions(stripe)
    await _subscriptions_in_trouble(stripe)
    await _checkout(stripe)
    await _portal(stripe)
    await _saved_cards(stripe)
    await _meters(stripe)
    await _events(stripe)


async def _customers_and_cards(stripe: StandIn) -> None:
    customer = await stripe.post(
        "/v1/customers",
        name="Acme",
        email="a@acme.example",
        phone="1",
        description="d",
        address={"line1": "1 Road", "country": "US"},
        metadata={"organization_id": "acme"},
        tax_exempt="none",
        payment_method="pm_card_visa",
        invoice_settings={"default_payment_method": "pm_card_visa"},
    )
    identifier = customer["id"]
    await stripe.post(f"/v1/customers/{identifier}", balance=0, next_invoice_sequence=2, invoice_prefix="ACME1234")
    await stripe.get(f"/v1/customers/{identifier}")
    await stripe.get("/v1/customers", email="a@acme.example", limit=3, created={"gte": 1})
    method = (await stripe.post("/v1/payment_methods/pm_card_amex/attach", customer=identifier))["id"]
    await stripe.post(f"/v1/payment_methods/{method}", metadata={"a": "b"}, billing_details={"name": "Acme"})
    await stripe.get(f"/v1/payment_methods/{method}")
    await stripe.get("/v1/payment_methods", customer=identifier, type="card")
    await stripe.get(f"/v1/customers/{identifier}/payment_methods", type="card")
    await stripe.post(f"/v1/payment_methods/{method}/detach")
    await stripe.delete(f"/v1/customers/{identifier}")
    await stripe.get(f"/v1/customers/{identifier}")


async def _catalog(stripe: StandIn) -> None:
    product = (await stripe.post("/v1/products", name="Minutes", unit_label="minute", metadata={"a": "b"}))["id"]
    await stripe.post(f"/v1/products/{product}", description="d", active=True)
    await stripe.get(f"/v1/products/{product}")
    await stripe.get("/v1/products", ids=[product], active=True)
    price = await stripe.post(
        "/v1/prices",
        product=product,
        currency="usd",
        unit_amount_decimal="0.5",
        lookup_key="minutes",
        recurring={"interval": "month", "interval_count": 1, "usage_type": "licensed"},
    )
    await stripe.post(f"/v1/prices/{price['id']}", nickname="n", active=True, lookup_key="m", transfer_lookup_key=True)
    await stripe.get(f"/v1/prices/{price['id']}", expand=["product"])
    await stripe.get("/v1/prices", product=product, lookup_keys=["m"], type="recurring", currency="usd", active=True)
    await stripe.post("/v1/prices", currency="usd", unit_amount=5, product_data={"name": "Seat"})


async def _invoices(stripe: StandIn) -> None:
    customer = (await stripe.customer())["id"]
    item = await stripe.post("/v1/invoiceitems", customer=customer, amount=100, currency="usd", description="d")
    await stripe.get(f"/v1/invoiceitems/{item['id']}")
    await stripe.get("/v1/invoiceitems", customer=customer, pending=True)
    await stripe.delete(f"/v1/invoiceitems/{item['id']}")
    await stripe.post("/v1/invoiceitems", customer=customer, amount=-50, currency="usd")

    draft = await stripe.post(
        "/v1/invoices",
        customer=customer,
        currency="usd",
        auto_advance=False,
        pending_invoice_items_behavior="include",
        metadata={"a": "b"},
        number="TB-1",
        effective_at=int(START.timestamp()) - 60,
        custom_fields=[{"name": "PO", "value": "7"}],
        description="d",
        footer="f",
    )
    identifier = draft["id"]
    price_data = {"currency": "usd", "unit_amount_decimal": "0.5", "product_data": {"name": "Minutes"}}
    lines = [
        {"amount": 5_000, "description": "base", "period": {"start": 1, "end": 2}, "metadata": {"line": "1"}},
        *({"amount": amount} for amount in range(10)),
    ]
    filled = await stripe.post(f"/v1/invoices/{identifier}/add_lines", lines=lines)
    product = {"currency": "usd", "unit_amount_decimal": "0.5", "product": await _product(stripe)}
    await stripe.post("/v1/invoiceitems", customer=customer, invoice=identifier, price_data=product, quantity=3)
    removed = {"id": filled["lines"]["data"][-1]["id"], "behavior": "unassign"}
    await stripe.post(f"/v1/invoices/{identifier}/remove_lines", lines=[removed])
    more = [{"price_data": price_data, "quantity": 3}]
    await stripe.post(f"/v1/invoices/{identifier}/add_lines", lines=more, invoice_metadata={"c": "d"})
    await stripe.get(f"/v1/invoices/{identifier}/lines", limit=100)
    await stripe.post(f"/v1/invoices/{identifier}", description="e", metadata={"a": ""})
    await stripe.get("/v1/invoices", customer=customer, status="draft", created={"gte": 1})
    await stripe.post(f"/v1/invoices/{identifier}/finalize", auto_advance=False)
    await stripe.post(f"/v1/invoices/{identifier}/pay", off_session=True)
    await stripe.get(f"/v1/invoices/{identifier}", expand=["payments", "customer"])

    voided = (await stripe.open_invoice(customer, 900))["id"]
    await stripe.post(f"/v1/invoices/{voided}/void")
    uncollectible = (await stripe.open_invoice(customer, 900))["id"]
    await stripe.post(f"/v1/invoices/{uncollectible}/mark_uncollectible")
    await stripe.post(f"/v1/invoices/{uncollectible}/pay", paid_out_of_band=True)
    sent = await stripe.draft(customer, 900, collection_method="send_invoice", days_until_due=30)
    await stripe.post(f"/v1/invoices/{sent['id']}/send")
    await stripe.delete(f"/v1/invoices/{(await stripe.draft(customer, 900))['id']}")

    failing = (await stripe.customer("pm_card_chargeCustomerFail"))["id"]
    await stripe.post(f"/v1/invoices/{(await stripe.draft(failing, 900, auto_advance=True))['id']}/finalize")


async def _product(stripe: StandIn) -> str:
    return str((await stripe.post("/v1/products", name="Minutes"))["id"])


async def _money_back(stripe: StandIn) -> None:
    customer = (await stripe.customer())["id"]
    invoice = await stripe.paid_invoice(customer, 4900)
    payment = (await stripe.get("/v1/invoice_payments", invoice=invoice["id"], status="paid"))["data"][0]
    await stripe.get(f"/v1/invoice_payments/{payment['id']}")
    intent = payment["payment"]["payment_intent"]
    await stripe.get(f"/v1/payment_intents/{intent}", expand=["latest_charge"])
    await stripe.post(f"/v1/payment_intents/{intent}", description="d", metadata={"a": "b"})
    await stripe.get("/v1/payment_intents", customer=customer)
    charge = (await stripe.get("/v1/charges", payment_intent=intent))["data"][0]["id"]
    await stripe.post(f"/v1/charges/{charge}", description="d", metadata={"a": "b"})

    single = {"amount": 900, "currency": "usd", "customer": customer}
    confirmed = await stripe.post("/v1/payment_intents", **single, payment_method="pm_card_visa", metadata={"a": "b"})
    await stripe.post(f"/v1/payment_intents/{confirmed['id']}/confirm")
    await stripe.post("/v1/payment_intents", amount=900, currency="usd", payment_method="pm_card_visa", confirm=True)
    canceled = await stripe.post("/v1/payment_intents", **single)
    await stripe.post(f"/v1/payment_intents/{canceled['id']}/cancel", cancellation_reason="abandoned")

    refund = await stripe.post("/v1/refunds", charge=charge, amount=100, reason="duplicate", metadata={"a": "b"})
    await stripe.get(f"/v1/charges/{charge}", expand=["refunds"])
    await stripe.get(f"/v1/refunds/{refund['id']}")
    await stripe.post(f"/v1/refunds/{refund['id']}", metadata={"c": "d"})
    await stripe.get("/v1/refunds", payment_intent=intent)

    note = await stripe.post(
        "/v1/credit_notes",
        invoice=invoice["id"],
        lines=[{"type": "custom_line_item", "description": "x", "quantity": 1, "unit_amount": 300}],
        refund_amount=100,
        credit_amount=100,
        out_of_band_amount=100,
        memo="m",
        reason="order_change",
    )
    await stripe.get(f"/v1/credit_notes/{note['id']}")
    await stripe.post(f"/v1/credit_notes/{note['id']}", memo="n", metadata={"a": "b"})
    await stripe.get("/v1/credit_notes", invoice=invoice["id"])
    await stripe.get(f"/v1/credit_notes/{note['id']}/lines")
    opened = await stripe.open_invoice(customer, 4900)
    line = {"type": "invoice_line_item", "invoice_line_item": opened["lines"]["data"][0]["id"], "amount": 100}
    void = await stripe.post("/v1/credit_notes", invoice=opened["id"], lines=[line])
    await stripe.post(f"/v1/credit_notes/{void['id']}/void")

    dispute = (await stripe.post("/_simulator/disputes", charge=charge))["id"]
    await stripe.get(f"/v1/disputes/{dispute}")
    await stripe.get("/v1/disputes", charge=charge)
    await stripe.post(f"/v1/disputes/{dispute}", evidence={"product_description": "x"}, submit=False)
    await stripe.post(f"/v1/disputes/{dispute}/close")
    won = await stripe.charge_of(await stripe.paid_invoice((await stripe.customer("pm_card_createDispute"))["id"], 900))
    dispute = (await stripe.get("/v1/disputes", charge=won["id"]))["data"][0]["id"]
    await stripe.post(f"/v1/disputes/{dispute}", evidence={"uncategorized_text": "winning_evidence"})


async def _recurring_price(stripe: StandIn, amount: int = 4900) -> str:
    recurring = {"interval": "month"}
    product = {"name": "Starter"}
    price = await stripe.post(
        "/v1/prices", currency="usd", unit_amount=amount, recurring=recurring, product_data=product
    )
    return str(price["id"])


async def _subscriptions(stripe: StandIn) -> None:
    clocks = "/v1/test_helpers/test_clocks"
    now = int(START.timestamp())
    clock = (await stripe.post(clocks, frozen_time=now, name="n"))["id"]
    await stripe.get(f"{clocks}/{clock}")
    await stripe.get(clocks, limit=1)
    customer = (await stripe.customer(test_clock=clock))["id"]
    await stripe.get("/v1/customers", test_clock=clock)
    sold = await stripe.post(
        "/v1/subscriptions",
        customer=customer,
        items=[{"price": await _recurring_price(stripe), "quantity": 1, "metadata": {"a": "b"}}],
        currency="usd",
        trial_period_days=7,
        trial_settings={"end_behavior": {"missing_payment_method": "cancel"}},
        payment_behavior="allow_incomplete",
        payment_settings={"save_default_payment_method": "on_subscription"},
        proration_behavior="none",
        billing_mode={"type": "flexible"},
        collection_method="charge_automatically",
        off_session=True,
        description="d",
        metadata={"organization_id": "acme"},
    )
    path = f"/v1/subscriptions/{sold['id']}"
    await stripe.get(path, expand=["latest_invoice.payments", "customer"])
    await stripe.get(f"/v1/customers/{customer}", expand=["subscriptions"])
    item = (await stripe.get("/v1/subscription_items", subscription=sold["id"]))["data"][0]["id"]
    await stripe.get(f"/v1/subscription_items/{item}")
    await stripe.post(f"{clocks}/{clock}/advance", frozen_time=now + 8 * 86_400)
    price_data = {
        "currency": "usd",
        "unit_amount": 100,
        "product": await _product(stripe),
        "recurring": {"interval": "month"},
    }
    await stripe.post(
        path,
        items=[
            {"id": item, "price": await _recurring_price(stripe, 14_900), "quantity": 2},
            {"price_data": price_data},
        ],
        proration_behavior="none",
        cancel_at_period_end=True,
        default_payment_method=(await stripe.get("/v1/payment_methods", customer=customer))["data"][0]["id"],
    )
    await stripe.post(path, cancel_at_period_end=False, pause_collection={"behavior": "void"})
    await stripe.post(path, pause_collection="", metadata={"organization_id": ""})
    await stripe.post(path, billing_cycle_anchor="now", proration_behavior="none")
    listed = {"status": "all", "created": {"gte": 1}, "current_period_end": {"gt": 1}}
    await stripe.get("/v1/subscriptions", customer=customer, **listed)
    await stripe.get("/v1/subscriptions", test_clock=clock, status="active")
    await stripe.post("/v1/invoices", customer=customer, subscription=sold["id"], auto_advance=False)
    await stripe.get("/v1/invoices", subscription=sold["id"])
    await stripe.delete(path, cancellation_details={"comment": "c", "feedback": "unused"}, invoice_now=False)
    await stripe.delete(f"{clocks}/{clock}")


async def _subscriptions_in_trouble(stripe: StandIn) -> None:
    price = await _recurring_price(stripe)
    pausing = (await stripe.customer(None))["id"]
    settings = {"end_behavior": {"missing_payment_method": "pause"}}
    sold = await stripe.post(
        "/v1/subscriptions",
        customer=pausing,
        items=[{"price": price}],
        trial_end=int(START.timestamp()) + 86_400,
        trial_settings=settings,
    )
    failing = (await stripe.customer("pm_card_chargeCustomerFail"))["id"]
    await stripe.post("/v1/subscriptions", customer=failing, items=[{"price": price}])
    await stripe.post(
        "/v1/subscriptions",
        customer=pausing,
        items=[{"price": price}],
        collection_method="send_invoice",
        days_until_due=1,
    )
    await stripe.advance(2 * DAY)
    await stripe.post(f"/v1/subscriptions/{sold['id']}/resume", billing_cycle_anchor="now")


async def _checkout(stripe: StandIn) -> None:
    sessions = "/v1/checkout/sessions"
    subscribing = await stripe.post(
        sessions,
        mode="subscription",
        line_items=[{"price": await _recurring_price(stripe), "quantity": 2}],
        success_url="https://example.com/done?session={CHECKOUT_SESSION_ID}",
        cancel_url="https://example.com/",
        customer_email="a@acme.example",
        client_reference_id="acme",
        metadata={"organization_id": "acme"},
        subscription_data={"metadata": {"organization_id": "acme"}, "trial_period_days": 7, "description": "d"},
        allow_promotion_codes=True,
        billing_address_collection="auto",
        payment_method_collection="always",
        locale="de",
        ui_mode="hosted_page",
        expires_at=int(START.timestamp()) + 3 * 86_400,
    )
    path = f"{sessions}/{subscribing['id']}"
    await stripe.post(path, metadata={"a": "b"})
    await stripe.get(f"{path}/line_items")
    await stripe.post(f"/_simulator/checkout/sessions/{subscribing['id']}/complete", email="b@acme.example", name="B")
    await stripe.get(path, expand=["line_items", "subscription"])
    await stripe.get(sessions, status="complete", created={"gte": 1})
    customer = (await stripe.customer())["id"]
    seat = {"currency": "usd", "unit_amount": 500, "product_data": {"name": "Seat"}}
    paying = await stripe.post(
        sessions,
        mode="payment",
        customer=customer,
        line_items=[{"price_data": seat, "quantity": 3}],
        success_url="https://example.com/",
        payment_intent_data={"metadata": {"a": "b"}, "description": "d"},
    )
    await stripe.post(f"/_simulator/checkout/sessions/{paying['id']}/complete")
    saving = await stripe.post(
        sessions,
        mode="setup",
        customer=customer,
        currency="usd",
        success_url="https://example.com/",
        setup_intent_data={"metadata": {"a": "b"}, "description": "d"},
        custom_text={"submit": {"message": "m"}},
    )
    await stripe.post(f"/_simulator/checkout/sessions/{saving['id']}/complete")
    unused = await stripe.post(
        sessions,
        mode="payment",
        customer_creation="always",
        line_items=[{"price_data": seat, "quantity": 1}],
        success_url="https://example.com/",
    )
    await stripe.post(f"{sessions}/{unused['id']}/expire")


async def _portal(stripe: StandIn) -> None:
    customer = (await stripe.customer())["id"]
    configurations, sessions = "/v1/billing_portal/configurations", "/v1/billing_portal/sessions"
    await stripe.post(sessions, customer=customer, return_url="https://example.com/", locale="en")
    features = {
        "customer_update": {"enabled": True, "allowed_updates": ["email", "address"]},
        "invoice_history": {"enabled": True},
        "payment_method_update": {"enabled": True},
        "subscription_cancel": {"enabled": True, "mode": "immediately"},
    }
    made = await stripe.post(
        configurations,
        features=features,
        business_profile={"headline": "h", "privacy_policy_url": "https://example.com/"},
        default_return_url="https://example.com/",
        metadata={"a": "b"},
        name="n",
    )
    await stripe.post(f"{configurations}/{made['id']}", active=True, metadata={"a": ""})
    await stripe.get(f"{configurations}/{made['id']}")
    await stripe.get(configurations, active=True, is_default=True)
    sold = await stripe.post("/v1/subscriptions", customer=customer, items=[{"price": await _recurring_price(stripe)}])
    flow = {"type": "subscription_cancel", "subscription_cancel": {"subscription": sold["id"]}}
    await stripe.post(sessions, customer=customer, configuration=made["id"], flow_data=flow)
    await stripe.post(sessions, customer=customer, flow_data={"type": "payment_method_update"})


async def _saved_cards(stripe: StandIn) -> None:
    customer = (await stripe.customer())["id"]
    intents = "/v1/setup_intents"
    waiting = await stripe.post(intents, customer=customer, usage="off_session", metadata={"a": "b"}, description="d")
    await stripe.post(f"{intents}/{waiting['id']}/confirm", payment_method="pm_card_visa")
    await stripe.post(intents, payment_method="pm_card_visa", confirm=True, payment_method_types=["card"])
    canceled = await stripe.post(intents, customer=customer)
    await stripe.post(f"{intents}/{canceled['id']}/cancel", cancellation_reason="abandoned")
    await stripe.get(f"{intents}/{canceled['id']}", expand=["customer"])
    await stripe.get(intents, customer=customer)


async def _meters(stripe: StandIn) -> None:
    meters = "/v1/billing/meters"
    meter = await stripe.post(
        meters,
        display_name="Minutes",
        event_name="minutes",
        default_aggregation={"formula": "sum"},
        customer_mapping={"type": "by_id", "event_payload_key": "who"},
        value_settings={"event_payload_key": "used"},
    )
    path = f"{meters}/{meter['id']}"
    await stripe.post(path, display_name="Agent minutes")
    await stripe.get(path)
    await stripe.get(meters, status="active")
    customer = (await stripe.customer())["id"]
    now = (await stripe.get(f"/v1/customers/{customer}"))["created"]
    payload = {"who": customer, "used": "60"}
    await stripe.post("/v1/billing/meter_events", event_name="minutes", payload=payload, identifier="e1", timestamp=now)
    start = now // 60 * 60
    await stripe.get(f"{path}/event_summaries", customer=customer, start_time=start, end_time=start + 60)
    await stripe.post(f"{path}/deactivate")
    await stripe.post(f"{path}/reactivate")


async def _events(stripe: StandIn) -> None:
    page = await stripe.get("/v1/events", type="invoice.*", limit=3, created={"gte": 1})
    await stripe.get(f"/v1/events/{page['data'][0]['id']}")
    await stripe.get("/v1/events", types=["invoice.paid", "charge.refunded"], delivery_success=True)
