"""A collector in memory."""

from __future__ import annotations

from services.billing.application.ports.collection import CollectedInvoice
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.invoices import Invoice
from services.billing.domain.stripe_events import StripeInvoice


class MemoryCollector:
    """A collector that a test looks into."""

    def __init__(self) -> None:
        self.invoices: dict[str, StripeInvoice] = {}
        """By their id there."""
        self.refusal = ""
        """Why it takes no invoice; empty: it does."""

    async def ensure_customer(self, organization_id: str, *, attempt_count: int) -> str:  # noqa: ARG002
        """As Collector."""
        return f"cus_{organization_id}"

    async def collect(self, invoice: Invoice, stripe_customer_id: str, *, attempt_count: int) -> CollectedInvoice:  # noqa: ARG002
        """As Collector."""
        if self.refusal:
            raise CollectionRefused(self.refusal)
        stripe_invoice_id = f"in_{invoice.invoice_id}"
        taken = StripeInvoice(
            stripe_invoice_id=stripe_invoice_id,
            organization_id=invoice.organization_id,
            invoice_id=invoice.invoice_id,
            total_minor=invoice.total.minor,
            currency_code=invoice.total.currency_code,
            is_paid=False,
        )
        self.invoices.setdefault(stripe_invoice_id, taken)
        return CollectedInvoice(stripe_invoice_id)

    async def look_up(self, stripe_invoice_id: str) -> StripeInvoice | None:
        """As Collector."""
        return self.invoices.get(stripe_invoice_id)
