"""Invoices in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kit.errors import NotFound
from services.billing.adapters.memory.dunning import MemoryDunning
from services.billing.adapters.memory.world import Due, World
from services.billing.application.ports.collection import DueInvoice
from services.billing.domain.invoices import (
    ALL_INVOICES,
    Invoice,
    InvoiceFilters,
    InvoiceKey,
    InvoiceState,
    invoice_number,
)


class MemoryInvoices:
    """InvoiceBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._world = world
        self._pages = world.pages[organization_id]
        self._organization_id = organization_id

    async def get(self, invoice_id: str) -> Invoice:
        """As InvoiceBook."""
        if invoice_id not in self._pages.invoices:
            raise NotFound(what="invoice", name=invoice_id)
        return self._pages.invoices[invoice_id]

    async def newest_first(
        self, *, before: InvoiceKey | None, count: int, filters: InvoiceFilters = ALL_INVOICES
    ) -> Sequence[Invoice]:
        """As InvoiceBook."""
        passing = [each for each in self._pages.invoices.values() if filters.hold(each)]
        keyed = {(each.finalize_time, each.invoice_id): each for each in passing}
        newest_first = sorted(keyed, reverse=True)
        if before is not None:
            newest_first = [key for key in newest_first if key < (before.finalize_time, before.invoice_id)]
        return [keyed[key] for key in newest_first[:count]]

    async def finalize(self, invoice: Invoice, *, actor: str, request_id: str) -> Invoice:  # noqa: ARG002
        """As InvoiceBook."""
        self._pages.change(None)
        self._world.last_numbers[invoice.legal_entity_id] += 1
        last_number = self._world.last_numbers[invoice.legal_entity_id]
        prefix = self._world.entity(invoice.legal_entity_id).invoice_prefix
        numbered = replace(invoice, number=invoice_number(prefix, last_number))
        self._pages.invoices[invoice.invoice_id] = numbered
        if invoice.is_collectable and invoice.finalize_time is not None:
            due = DueInvoice(self._organization_id, invoice.invoice_id, 0)
            self._world.due[self._organization_id, invoice.invoice_id] = Due(due, invoice.finalize_time)
            if invoice.due_time is not None:
                dunning = MemoryDunning(self._world, self._organization_id)
                await dunning.look_at(invoice.invoice_id, time=invoice.due_time)
        return numbered

    async def set_collected(self, invoice_id: str, stripe_invoice_id: str) -> None:
        """As InvoiceBook."""
        invoice = await self.get(invoice_id)
        self._pages.invoices[invoice_id] = replace(invoice, stripe_invoice_id=stripe_invoice_id)
        self._world.due.pop((self._organization_id, invoice_id), None)

    async def set_paid(self, invoice_id: str, stripe_invoice_id: str) -> None:
        """As InvoiceBook."""
        invoice = await self.get(invoice_id)
        if invoice.state is InvoiceState.FINALIZED:
            paid = replace(invoice, state=InvoiceState.PAID, stripe_invoice_id=stripe_invoice_id)
            self._pages.invoices[invoice_id] = paid
            self._pages.change(None)
