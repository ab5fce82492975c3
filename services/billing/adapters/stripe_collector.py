"""Stripe as the collector of our invoices.

Stripe's draft is held (auto_advance off) until it carries our number, our lines in one step and our total; only then is
it finalized. Every attempt after the first looks at what is there before it acts, and goes on from that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import stripe
import structlog

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable
from kit.ids import is_organization_id
from services.billing.application.ports.collection import CollectedInvoice
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.invoices import Invoice
from services.billing.domain.stripe_events import StripeInvoice

log = structlog.get_logger()

TIMEOUT_SECONDS = 20
NETWORK_RETRIES = 2
# Stripe keeps a failure of its own under the key and answers it again; so after some attempts the key changes. Not at
# each attempt: under the same key Stripe repeats an answer that was lost on its way to us.
_ATTEMPTS_PER_KEY = 3

_CONFLICT = 409
_ORGANIZATION_KEY, _INVOICE_KEY = "tollbook_organization_id", "tollbook_invoice_id"
_FINAL = frozenset({"open", "paid", "uncollectible"})


class StripeCollector:
    """Collector over Stripe's API."""

    def __init__(self, api_key: str, api_base: str = "", *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._http = stripe.HTTPXClient(timeout=timeout_seconds)
        client = stripe.StripeClient(
            api_key,
            base_addresses={"api": api_base} if api_base else {},
            http_client=self._http,
            max_network_retries=NETWORK_RETRIES,
        )
        self._customers = client.v1.customers
        self._invoices = client.v1.invoices

    async def ensure_customer(self, organization_id: str, *, attempt_count: int) -> str:
        """As Collector."""
        with _refusals():
            customer = await self._customers.create_async(
                {"name": organization_id, "metadata": {_ORGANIZATION_KEY: organization_id}},
                _key("customer", organization_id, attempt_count),
            )
        return customer.id

    async def collect(self, invoice: Invoice, stripe_customer_id: str, *, attempt_count: int) -> CollectedInvoice:
        """As Collector."""
        with _refusals():
            theirs = await self._find(invoice, stripe_customer_id) if attempt_count > 1 else None
            if theirs is None:
                theirs = await self._begin(invoice, stripe_customer_id, attempt_count)
            if theirs.status == "draft":
                if not theirs.lines.data:
                    theirs = await self._add_lines(invoice, theirs.id, attempt_count)
                _require_equal(invoice, theirs)
                theirs = await self._invoices.finalize_invoice_async(
                    theirs.id, {"auto_advance": True}, _key("finalize", invoice.invoice_id, attempt_count)
                )
            _require_equal(invoice, theirs)
        if theirs.status not in _FINAL:
            raise CollectionRefused(f"{theirs.id} is {theirs.status} at Stripe")
        return CollectedInvoice(theirs.id)

    async def look_up(self, stripe_invoice_id: str) -> StripeInvoice | None:
        """As Collector."""
        try:
            with _refusals():
                theirs = await self._invoices.retrieve_async(stripe_invoice_id)
        except _Missing:
            return None
        metadata = _metadata(theirs)
        organization_id = metadata.get(_ORGANIZATION_KEY, "")
        return StripeInvoice(
            stripe_invoice_id=theirs.id,
            # Whoever may write at Stripe may write anything there; it names rows of ours.
            organization_id=organization_id if is_organization_id(organization_id) else "",
            invoice_id=metadata.get(_INVOICE_KEY, ""),
            total_minor=theirs.total,
            currency_code=theirs.currency.upper(),
            is_paid=theirs.status == "paid",
        )

    async def close(self) -> None:
        """Closes every connection."""
        await self._http.close_async()  # type: ignore[no-untyped-call]  # the one method that Stripe left untyped

    async def _find(self, invoice: Invoice, stripe_customer_id: str) -> stripe.Invoice | None:
        page = await self._invoices.list_async({"customer": stripe_customer_id, "limit": 100})
        async for theirs in page.auto_paging_iter():
            if _metadata(theirs).get(_INVOICE_KEY) == invoice.invoice_id:
                return theirs
        return None

    async def _begin(self, invoice: Invoice, stripe_customer_id: str, attempt_count: int) -> stripe.Invoice:
        return await self._invoices.create_async(
            {
                "customer": stripe_customer_id,
                "number": invoice.number,
                "currency": invoice.total.currency_code.lower(),
                "auto_advance": False,
                "collection_method": "charge_automatically",
                "pending_invoice_items_behavior": "exclude",
                "metadata": {_ORGANIZATION_KEY: invoice.organization_id, _INVOICE_KEY: invoice.invoice_id},
            },
            _key("invoice", invoice.invoice_id, attempt_count),
        )

    async def _add_lines(self, invoice: Invoice, stripe_invoice_id: str, attempt_count: int) -> stripe.Invoice:
        return await self._invoices.add_lines_async(
            stripe_invoice_id,
            {
                "lines": [
                    {
                        "amount": line.amount.minor,
                        "description": line.description,
                        "period": {
                            "start": unix_microseconds(line.period.start) // 1_000_000,
                            "end": unix_microseconds(line.period.end) // 1_000_000,
                        },
                    }
                    for line in invoice.lines
                ]
            },
            _key("lines", invoice.invoice_id, attempt_count),
        )


def _metadata(theirs: stripe.Invoice) -> dict[str, str]:
    metadata: dict[str, str] | None = theirs.to_dict()["metadata"]
    return metadata or {}


def _require_equal(ours: Invoice, theirs: stripe.Invoice) -> None:
    expected = (ours.number, ours.total.currency_code, ours.total.minor)
    found = (theirs.number, theirs.currency.upper(), theirs.total)
    if found != expected:
        raise CollectionRefused(f"{theirs.id} is {found} at Stripe (number, currency, total), ours is {expected}")


def _key(what: str, row_id: str, attempt_count: int) -> stripe.RequestOptions:
    return {"idempotency_key": f"tollbook-{what}-{row_id}-{(attempt_count - 1) // _ATTEMPTS_PER_KEY}"}


class _Missing(CollectionRefused):
    """Stripe has no such object."""


@contextmanager
def _refusals() -> Iterator[None]:
    """Sorts Stripe's errors into those that trying again may cure and those that it cannot."""
    try:
        yield
    except (stripe.InvalidRequestError, stripe.IdempotencyError, stripe.CardError) as error:
        if error.http_status == _CONFLICT:
            raise DependencyUnavailable(dependency="Stripe") from error
        refusal = _Missing if error.code == "resource_missing" else CollectionRefused
        raise refusal(str(error)) from error
    except stripe.StripeError as error:
        log.warning("stripe_failed", error=str(error), status=error.http_status)
        raise DependencyUnavailable(dependency="Stripe") from error
