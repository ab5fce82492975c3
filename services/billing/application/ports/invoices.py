"""An organization's invoices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.billing.domain.invoices import ALL_INVOICES, Invoice, InvoiceFilters, InvoiceKey


class InvoiceReader(Protocol):
    """The invoices in one organization's books."""

    async def get(self, invoice_id: str) -> Invoice:
        """One invoice. Raises NotFound, also for another organization's."""
        ...

    async def newest_first(
        self, *, before: InvoiceKey | None, count: int, filters: InvoiceFilters = ALL_INVOICES
    ) -> Sequence[Invoice]:
        """Up to `count` invoices that pass the filters, newest first, from the newest or from the first one older than
        `before`.
        """
        ...


class InvoiceBook(InvoiceReader, Protocol):
    """The same, open for writing."""

    async def finalize(self, invoice: Invoice, *, actor: str, request_id: str) -> Invoice:
        """Adds an invoice with the next number of its legal entity. If there is anything to collect, it is listed for
        collection, and for a look at its due time if it has one. To be called last: numbers are handed out one at a
        time, without a gap, until the books close.
        """
        ...

    async def set_collected(self, invoice_id: str, stripe_invoice_id: str) -> None:
        """Keeps that the invoice is at Stripe, and takes it off the list of what is to be collected."""
        ...

    async def set_paid(self, invoice_id: str, stripe_invoice_id: str) -> None:
        """Marks a finalized invoice paid; one that is paid already stays as it is."""
        ...
