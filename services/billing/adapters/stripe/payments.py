"""Charges, refunds and disputes."""

from __future__ import annotations

from services.billing.adapters.stripe.client import Missing, StripeApi
from services.billing.adapters.stripe.shapes import (
    charge_of,
    dispute_from_stripe,
    invoice_of_charge,
    payment_intent_of_charge,
    refund_from_stripe,
)
from services.billing.domain.stripe_objects import StripeCharge, StripeDispute


class StripePayments:
    """PaymentsAtStripe over the API."""

    def __init__(self, api: StripeApi) -> None:
        self._api = api

    async def charge(self, stripe_charge_id: str) -> StripeCharge | None:
        """As PaymentsAtStripe."""
        try:
            body = (await self._api(self._api.v1.charges.retrieve_async, stripe_charge_id)).to_dict()
        except Missing:
            return None
        invoice_id = invoice_of_charge(body) or await self._invoice_of(payment_intent_of_charge(body))
        refunds = [
            refund_from_stripe(each)
            async for each in self._api.all_of(self._api.v1.refunds.list_async, {"charge": stripe_charge_id})
        ]
        return StripeCharge(stripe_charge_id=body["id"], stripe_invoice_id=invoice_id, refunds=tuple(refunds))

    async def charge_of_refund(self, stripe_refund_id: str) -> str:
        """As PaymentsAtStripe."""
        try:
            body = await self._api(self._api.v1.refunds.retrieve_async, stripe_refund_id)
        except Missing:
            return ""
        return charge_of(body.to_dict())

    async def dispute(self, stripe_dispute_id: str) -> StripeDispute | None:
        """As PaymentsAtStripe."""
        try:
            body = await self._api(self._api.v1.disputes.retrieve_async, stripe_dispute_id)
        except Missing:
            return None
        return dispute_from_stripe(body.to_dict())

    async def _invoice_of(self, payment_intent_id: str) -> str:
        if not payment_intent_id:
            return ""
        payment = {"type": "payment_intent", "payment_intent": payment_intent_id}
        async for each in self._api.all_of(self._api.v1.invoice_payments.list_async, {"payment": payment}):
            return str(each["invoice"])
        return ""
