"""Our invoices at Stripe.

Stripe's draft is held (auto_advance off) until it carries our number, our lines and our total; only then is it
finalized. A draft is one that we begin, or one that Stripe drafted for a subscription: of that the lines are taken off
first. Every attempt after the first looks at what is there before it acts, and goes on from that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import stripe

from kit.clock import Clock, unix_microseconds
from services.billing.adapters.stripe.client import Missing, StripeApi, keyed
from services.billing.adapters.stripe.shapes import INVOICE_KEY, ORGANIZATION_KEY, invoice_from_stripe
from services.billing.application.ports.collection import CollectedInvoice
from services.billing.domain.errors import CollectionRefused, CustomerGone
from services.billing.domain.invoices import Invoice
from services.billing.domain.payments import CollectedLine, Settlement, lines_that_fit
from services.billing.domain.profile import BY_CARD, BillingTerms, CollectionMethod
from services.billing.domain.stripe_objects import StripeInvoice, StripeInvoiceStatus

_TAKEN = frozenset({StripeInvoiceStatus.OPEN, StripeInvoiceStatus.PAID, StripeInvoiceStatus.UNCOLLECTIBLE})


class StripeInvoices:
    """Collector over the API."""

    def __init__(self, api: StripeApi, clock: Clock) -> None:
        self._api = api
        self._invoices = api.v1.invoices
        self._clock = clock

    async def collect(
        self, invoice: Invoice, stripe_customer_id: str, *, terms: BillingTerms = BY_CARD, attempt_count: int
    ) -> CollectedInvoice:
        """As Collector."""
        theirs = await self.find(invoice, stripe_customer_id) if attempt_count > 1 else None
        if theirs is None:
            theirs = self._read(await self._begin(invoice, stripe_customer_id, terms, attempt_count))
        return await self._complete(invoice, theirs, attempt_count)

    async def adopt(
        self, invoice: Invoice, stripe_invoice_id: str, *, terms: BillingTerms = BY_CARD, attempt_count: int
    ) -> CollectedInvoice:
        """As Collector."""
        theirs = self._read(await self._api(self._invoices.retrieve_async, stripe_invoice_id))
        if theirs.invoice_id not in ("", invoice.invoice_id):
            raise CollectionRefused(f"{stripe_invoice_id} carries another invoice of ours: {theirs.invoice_id}")
        if theirs.status is StripeInvoiceStatus.DRAFT:
            await self._take_lines_off(invoice, stripe_invoice_id, attempt_count)
            named = self._named(invoice) | {"auto_advance": False} | _collected_by(terms)
            theirs = self._read(await self._api(self._invoices.update_async, stripe_invoice_id, named))  # type: ignore[arg-type]  # a dict built in two places
        elif not theirs.invoice_id and theirs.status in _TAKEN:
            _require_amount(invoice, theirs)
            # It is charged already, under a number of Stripe's own: all that is left is to say whose it is.
            metadata = {"metadata": self._named(invoice)["metadata"]}
            await self._api(self._invoices.update_async, stripe_invoice_id, metadata)  # type: ignore[arg-type]  # the same
            return CollectedInvoice(stripe_invoice_id)
        elif theirs.status in _TAKEN and theirs.number != invoice.number:
            _require_amount(invoice, theirs)
            return CollectedInvoice(stripe_invoice_id)
        return await self._complete(invoice, theirs, attempt_count)

    async def hold(self, stripe_invoice_id: str) -> StripeInvoice | None:
        """As Collector."""
        theirs = await self.look_up(stripe_invoice_id)
        if theirs is not None and theirs.status is StripeInvoiceStatus.DRAFT:
            await self._api(self._invoices.update_async, stripe_invoice_id, {"auto_advance": False})
        return theirs

    async def look_up(self, stripe_invoice_id: str) -> StripeInvoice | None:
        """As Collector."""
        try:
            return self._read(await self._api(self._invoices.retrieve_async, stripe_invoice_id))
        except Missing:
            return None

    async def find(self, invoice: Invoice, stripe_customer_id: str) -> StripeInvoice | None:
        """As Collector."""
        async for body in self._api.all_of(self._invoices.list_async, {"customer": stripe_customer_id}):
            theirs = invoice_from_stripe(body, self._clock.now())
            if theirs.invoice_id == invoice.invoice_id:
                return theirs
        return None

    async def settle(self, stripe_invoice_id: str, settlement: Settlement) -> StripeInvoice:
        """As Collector."""
        key = keyed(settlement.value.lower(), stripe_invoice_id, 1)
        theirs = self._read(await self._api(self._invoices.retrieve_async, stripe_invoice_id))
        try:
            match settlement:
                case Settlement.VOID if theirs.status is StripeInvoiceStatus.DRAFT:
                    # A draft has never been an invoice; Stripe deletes those and voids the others.
                    await self._api(self._invoices.delete_async, stripe_invoice_id)
                    return _voided(theirs)
                case Settlement.VOID:
                    await self._api(self._invoices.void_invoice_async, stripe_invoice_id, {}, key)
                case Settlement.UNCOLLECTIBLE:
                    await self._api(self._invoices.mark_uncollectible_async, stripe_invoice_id, {}, key)
                case Settlement.PAID_OUTSIDE:
                    await self._api(self._invoices.pay_async, stripe_invoice_id, {"paid_out_of_band": True}, key)
        except CollectionRefused:
            # It has become something else meanwhile: what, the caller sees.
            pass
        return self._read(await self._api(self._invoices.retrieve_async, stripe_invoice_id))

    async def _complete(self, invoice: Invoice, theirs: StripeInvoice, attempt_count: int) -> CollectedInvoice:
        if theirs.status is StripeInvoiceStatus.DRAFT:
            if not theirs.has_lines:
                theirs = await self._add_lines(invoice, theirs.stripe_invoice_id, attempt_count)
            _require_equal(invoice, theirs)
            finalized = await self._api(
                self._invoices.finalize_invoice_async,
                theirs.stripe_invoice_id,
                {"auto_advance": True},
                keyed("finalize", invoice.invoice_id, attempt_count),
            )
            theirs = self._read(finalized)
        _require_equal(invoice, theirs)
        if theirs.status not in _TAKEN:
            raise CollectionRefused(f"{theirs.stripe_invoice_id} is {theirs.status.value} at Stripe")
        return CollectedInvoice(theirs.stripe_invoice_id)

    async def _begin(
        self, invoice: Invoice, stripe_customer_id: str, terms: BillingTerms, attempt_count: int
    ) -> stripe.Invoice:
        try:
            return await self._create(invoice, stripe_customer_id, terms, attempt_count)
        except Missing as refusal:
            raise CustomerGone(str(refusal)) from refusal

    async def _create(
        self, invoice: Invoice, stripe_customer_id: str, terms: BillingTerms, attempt_count: int
    ) -> stripe.Invoice:
        return await self._api(
            self._invoices.create_async,
            {  # type: ignore[arg-type]  # a dict built in two places
                **self._named(invoice),
                "customer": stripe_customer_id,
                "currency": invoice.total.currency_code.lower(),
                "auto_advance": False,
                **_collected_by(terms),
                "pending_invoice_items_behavior": "exclude",
            },
            keyed("invoice", f"{invoice.invoice_id}-{stripe_customer_id}", attempt_count),
        )

    async def _take_lines_off(self, invoice: Invoice, stripe_invoice_id: str, attempt_count: int) -> None:
        async def fetch(params: Any) -> Any:
            return await self._invoices.line_items.list_async(stripe_invoice_id, params)

        lines = self._api.all_of(fetch, {})
        theirs = [line["id"] async for line in lines if INVOICE_KEY not in (line["metadata"] or {})]
        if theirs:
            await self._api(
                self._invoices.remove_lines_async,
                stripe_invoice_id,
                {"lines": [{"id": each, "behavior": "delete"} for each in theirs]},
                keyed("remove-lines", invoice.invoice_id, attempt_count),
            )

    async def _add_lines(self, invoice: Invoice, stripe_invoice_id: str, attempt_count: int) -> StripeInvoice:
        lines = [_line_to_stripe(invoice, line) for line in lines_that_fit(invoice.lines)]
        added = await self._api(
            self._invoices.add_lines_async,
            stripe_invoice_id,
            {"lines": lines},  # type: ignore[typeddict-item]  # built by one function for all of them
            keyed("lines", invoice.invoice_id, attempt_count),
        )
        return self._read(added)

    def _named(self, invoice: Invoice) -> dict[str, Any]:
        return {
            "number": invoice.number,
            "metadata": {ORGANIZATION_KEY: invoice.organization_id, INVOICE_KEY: invoice.invoice_id},
        }

    def _read(self, theirs: stripe.Invoice) -> StripeInvoice:
        return invoice_from_stripe(theirs.to_dict(), self._clock.now())


def _collected_by(terms: BillingTerms) -> dict[str, Any]:
    if terms.collection_method is CollectionMethod.SEND_INVOICE:
        return {"collection_method": "send_invoice", "days_until_due": terms.term_days}
    return {"collection_method": "charge_automatically"}


def _line_to_stripe(invoice: Invoice, line: CollectedLine) -> dict[str, Any]:
    return {
        "amount": line.amount_minor,
        "description": line.description,
        "period": {
            "start": unix_microseconds(line.period.start) // 1_000_000,
            "end": unix_microseconds(line.period.end) // 1_000_000,
        },
        # By this a line of ours is known among those that Stripe drafted.
        "metadata": {INVOICE_KEY: invoice.invoice_id},
    }


def _voided(theirs: StripeInvoice) -> StripeInvoice:
    return replace(theirs, status=StripeInvoiceStatus.VOID)


def _require_amount(ours: Invoice, theirs: StripeInvoice) -> None:
    expected, found = (ours.total.currency_code, ours.total.minor), (theirs.currency_code, theirs.total_minor)
    if found != expected:
        raise CollectionRefused(
            f"{theirs.stripe_invoice_id}: Stripe itself finalized {found} (currency, total), ours is {expected}"
        )


def _require_equal(ours: Invoice, theirs: StripeInvoice) -> None:
    expected = (ours.number, ours.total.currency_code, ours.total.minor)
    found = (theirs.number, theirs.currency_code, theirs.total_minor)
    if found != expected:
        raise CollectionRefused(
            f"{theirs.stripe_invoice_id} is {found} at Stripe (number, currency, total), ours is {expected}"
        )
