"""Stripe's record of our customers, whole: every page of every list."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from kit.clock import Clock, from_unix_microseconds, unix_microseconds
from kit.money import Money
from services.billing.adapters.stripe.client import Missing, StripeApi, keyed
from services.billing.adapters.stripe.shapes import (
    INVOICE_KEY,
    customer_from_stripe,
    customer_of,
    invoice_from_stripe,
    invoice_of_charge,
    payment_intent_of_charge,
    refund_from_stripe,
)
from services.billing.domain.payments import CollectedLine
from services.billing.domain.periods import Period
from services.billing.domain.reconciliation import TheirCharge, TheirInvoice, TheirRecord, TheirRefund
from services.billing.domain.stripe_objects import StripeRefund

_Body = Mapping[str, Any]


class StripeRecords:
    """RecordsAtStripe over the API."""

    def __init__(self, api: StripeApi, clock: Clock) -> None:
        self._api = api
        self._v1 = api.v1
        self._clock = clock

    async def customers(self, *, since: datetime) -> Mapping[str, frozenset[str]]:
        """As RecordsAtStripe."""
        found: dict[str, set[str]] = {}
        async for body in self._api.all_of(self._v1.customers.list_async, {"created": {"gte": _seconds(since)}}):
            customer = customer_from_stripe(body)
            if customer.organization_id:
                found.setdefault(customer.organization_id, set()).add(customer.stripe_customer_id)
        return {organization_id: frozenset(ids) for organization_id, ids in found.items()}

    async def read(
        self, customers: Collection[str], *, kept: str, invoices: Collection[str], since: datetime
    ) -> TheirRecord:
        """As RecordsAtStripe."""
        bodies: dict[str, _Body] = {}
        charges: list[_Body] = []
        for customer_id in sorted({*customers, *([kept] if kept else [])}):
            whose, made_since = {"customer": customer_id}, {"created": {"gte": _seconds(since)}}
            for params in (whose | made_since, whose | {"status": "open"}):
                # A customer that Stripe has not heard of has nothing there.
                with suppress(Missing):
                    async for body in self._api.all_of(self._v1.invoices.list_async, params):
                        bodies[body["id"]] = body
            with suppress(Missing):
                charges += [each async for each in self._api.all_of(self._v1.charges.list_async, whose | made_since)]
        for invoice_id in sorted(set(invoices) - set(bodies)):
            with suppress(Missing):
                bodies[invoice_id] = (await self._api(self._v1.invoices.retrieve_async, invoice_id)).to_dict()
        paid_by = await self._invoices_by_intent(bodies)
        tried = _latest_tries(charges, paid_by)
        return TheirRecord(
            is_customer_there=await self._is_there(kept),
            invoices=tuple([await self._invoice(body, tried.get(body["id"], 0)) for body in bodies.values()]),
            charges=tuple([await self._charge(each, paid_by) for each in charges[::-1] if _is_taken(each)]),
        )

    async def disown(self, stripe_invoice_id: str) -> None:
        """As RecordsAtStripe."""
        with suppress(Missing):
            await self._api(self._v1.invoices.update_async, stripe_invoice_id, {"metadata": {INVOICE_KEY: ""}})

    async def refund(self, stripe_charge_id: str, amount_minor: int) -> StripeRefund:
        """As RecordsAtStripe."""
        charge = (await self._api(self._v1.charges.retrieve_async, stripe_charge_id)).to_dict()
        made = await self._api(
            self._v1.refunds.create_async,
            {"charge": stripe_charge_id, "amount": amount_minor},
            keyed("refund", f"{stripe_charge_id}-{charge['amount_refunded']}-{amount_minor}", 1),
        )
        return refund_from_stripe(made.to_dict())

    async def _is_there(self, customer_id: str) -> bool:
        if not customer_id:
            return False
        try:
            body = await self._api(self._v1.customers.retrieve_async, customer_id)
        except Missing:
            return False
        return not customer_from_stripe(body.to_dict()).is_deleted

    async def _invoices_by_intent(self, bodies: Mapping[str, _Body]) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for invoice_id in bodies:
            params = {"invoice": invoice_id}
            async for each in self._api.all_of(self._v1.invoice_payments.list_async, params):
                intent = (each["payment"] or {}).get("payment_intent")
                if intent:
                    found[intent if isinstance(intent, str) else intent["id"]] = invoice_id
        return found

    async def _invoice(self, body: _Body, tried: int) -> TheirInvoice:
        async def fetch(params: Any) -> Any:
            return await self._v1.invoices.line_items.list_async(body["id"], params)

        lines = [
            CollectedLine(each["amount"], each["description"] or "", _period(each["period"]))
            async for each in self._api.all_of(fetch, {})
        ]
        now = self._clock.now()
        moments = [body["created"], tried, *((body.get("status_transitions") or {}).values())]
        if (due := body.get("due_date")) and due < _seconds(now):
            moments.append(due)
        return TheirInvoice(
            invoice=invoice_from_stripe(body, now),
            lines=tuple(lines),
            change_time=_moment(max(each for each in moments if each)),
        )

    async def _charge(self, body: _Body, paid_by: Mapping[str, str]) -> TheirCharge:
        refunds: list[TheirRefund] = []
        if body["amount_refunded"] or body["refunded"]:
            params = {"charge": body["id"]}
            refunds = [
                TheirRefund(refund_from_stripe(each), _moment(each["created"]))
                async for each in self._api.all_of(self._v1.refunds.list_async, params)
            ]
        return TheirCharge(
            stripe_charge_id=body["id"],
            stripe_invoice_id=_invoice_paid(body, paid_by),
            amount=Money(body["amount"], body["currency"].upper()),
            refunds=tuple(refunds),
            create_time=_moment(body["created"]),
        )


def _invoice_paid(charge: _Body, paid_by: Mapping[str, str]) -> str:
    return invoice_of_charge(charge) or paid_by.get(payment_intent_of_charge(charge), "")


def _latest_tries(charges: Collection[_Body], paid_by: Mapping[str, str]) -> Mapping[str, int]:
    """When money for an invoice was asked for last, by invoice."""
    latest: dict[str, int] = {}
    for charge in charges:
        invoice_id = _invoice_paid(charge, paid_by)
        latest[invoice_id] = max(latest.get(invoice_id, 0), charge["created"])
    return latest


def _is_taken(charge: _Body) -> bool:
    return charge["status"] == "succeeded" and bool(customer_of(charge))


def _period(body: _Body) -> Period:
    return Period(_moment(body["start"]), _moment(body["end"]))


def _seconds(moment: datetime) -> int:
    return unix_microseconds(moment) // 1_000_000


def _moment(seconds: int) -> datetime:
    return from_unix_microseconds(seconds * 1_000_000)
