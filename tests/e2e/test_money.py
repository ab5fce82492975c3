"""Money that is there already, through the REST gateway of the running suite."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from kit.ids import new_id
from tests.e2e.running_suite import RunningSuite, Tenant, wait_for

_EXPIRED_SECONDS_MAX = 15.0
_PAID_SECONDS_MAX = 30.0


def _json(answer: httpx.Response, *, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, f"{answer.request.url}: {answer.status_code} {answer.text}"
    body: dict[str, Any] = answer.json()
    return body


def test_a_first_invoice_shows_profile_coupon_tax_and_credits(suite: RunningSuite, tenant: Tenant) -> None:
    coupon_id, organization = new_id("LAUNCH"), {"organizationId": tenant.organization_id}
    with suite.rest(suite.admin_key) as operator, suite.rest(tenant.key) as customer:

        def post(client: httpx.Client, path: str, body: dict[str, Any], *, method: str = "POST") -> dict[str, Any]:
            return _json(client.request(method, path, json={"requestId": new_id("req"), **body}))

        coupon = {
            "couponId": coupon_id,
            "displayName": "Launch",
            "duration": "COUPON_DURATION_MONTHS",
            "monthCount": 3,
            "percent": "50",
        }
        post(operator, "/api/v1/coupons", {"coupon": coupon})
        post(operator, "/api/v1/subscriptions", {"subscription": {**organization, "planId": "starter"}})
        rate = {"displayName": "VAT", "percent": "19", "jurisdiction": "DE"}
        post(operator, "/api/v1/tax-rates", {**organization, "rates": [rate]}, method="PUT")
        grant = {"amount": "10.00", "currencyCode": "USD"}
        post(operator, "/api/v1/credits:grant", {**organization, "grant": grant})
        party = {"legalName": "Acme GmbH", "countryCode": "DE"}
        post(customer, "/api/v1/billing-profile", {"party": party}, method="PUT")
        post(customer, "/api/v1/redemptions", {"couponId": coupon_id})

        preview = _json(customer.get("/api/v1/invoices:preview"))["invoice"]
        # 24.50 and 19 % of it, less the credits.
        assert preview["total"] == "19.16"
        final = post(operator, "/api/v1/billing-periods:close", organization)["invoice"]
        assert [(line["kind"].removeprefix("INVOICE_LINE_KIND_"), line["amount"]) for line in final["lines"]] == [
            ("BASE_FEE", "49.00"),
            ("DISCOUNT", "-24.50"),
            ("OVERAGE", "0.00"),
            ("TAX", "4.66"),
            ("CREDIT", "-10.00"),
        ]
        assert final["total"] == "19.16"

        def is_paid() -> bool:
            now = _json(customer.get(f"/api/v1/invoices/{final['invoiceId']}"))["invoice"]
            return bool(now["state"] == "INVOICE_STATE_PAID")

        wait_for(is_paid, seconds=_PAID_SECONDS_MAX, what="the invoice is paid")
        note = post(
            operator,
            "/api/v1/credit-notes",
            {**organization, "invoiceId": final["invoiceId"], "reason": "CREDIT_NOTE_REASON_GOODWILL"},
        )["creditNote"]
        assert (note["total"], note["reduced"], note["credited"]) == ("29.16", "0.00", "29.16")
        (balance,) = _json(customer.get("/api/v1/credits"))["balances"]
        assert (balance["granted"], balance["applied"], balance["available"]) == ("39.16", "10.00", "29.16")
        assert len(_json(customer.get("/api/v1/credits/entries"))["entries"]) == 3
        assert _json(customer.get("/api/v1/credit-notes"))["creditNotes"] == [note]
        assert _json(customer.get("/api/v1/billing-profile"))["profile"]["party"]["legalName"] == "Acme GmbH"


def test_credits_expire_by_themselves(suite: RunningSuite, tenant: Tenant) -> None:
    with suite.rest(suite.admin_key) as operator, suite.rest(tenant.key) as customer:
        soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        body = {
            "requestId": new_id("req"),
            "organizationId": tenant.organization_id,
            "grant": {"amount": "10.00", "currencyCode": "USD", "expireTime": soon},
        }
        _json(operator.post("/api/v1/credits:grant", json=body))

        def is_gone() -> bool:
            (balance,) = _json(customer.get("/api/v1/credits"))["balances"]
            return bool(balance["expired"] == "10.00" and balance["available"] == "0.00")

        wait_for(is_gone, seconds=_EXPIRED_SECONDS_MAX, what="the credits to expire")


def test_a_suite_that_is_tried_out_has_its_invoices_paid(suite: RunningSuite, tenant: Tenant) -> None:
    organization = {"organizationId": tenant.organization_id}
    with suite.rest(suite.admin_key) as operator, suite.rest(tenant.key) as customer:
        sold = {"requestId": new_id("req"), "subscription": {**organization, "planId": "starter"}}
        _json(operator.post("/api/v1/subscriptions", json=sold))
        closing = {"requestId": new_id("req"), **organization}
        made = _json(operator.post("/api/v1/billing-periods:close", json=closing))["invoice"]
        assert (made["state"], made["total"]) == ("INVOICE_STATE_FINALIZED", "49.00")

        def is_paid() -> bool:
            now = _json(customer.get(f"/api/v1/invoices/{made['invoiceId']}"))["invoice"]
            return bool(now["state"] == "INVOICE_STATE_PAID")

        wait_for(is_paid, seconds=_PAID_SECONDS_MAX, what="the invoice is paid")
        subscription = _json(customer.get("/api/v1/subscription"))["subscription"]
        assert subscription["status"] == "SUBSCRIPTION_STATUS_ACTIVE"
