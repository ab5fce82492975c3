"""Invoices in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kit.errors import NotFound
from services.billing.adapters.memory.world import Due, World
from services.billing.application.ports.collection import DueInvoice
from services.billing.domain.closing import Closing
from services.billing.domain.invoices import Invoice, InvoiceKey, InvoiceState, invoice_number
from services.billing.domain.periods import Period


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

    async def of_period(self, subscription_id: str, period: Period) -> Invoice | None:
        """As InvoiceBook."""
        for invoice in self._pages.invoices.values():
            if (invoice.subscription_id, invoice.period.start) == (subscription_id, period.start):
                return invoice
        return None

    async def newest_first(self, *, before: InvoiceKey | None, count: int) -> Sequence[Invoice]:
        """As InvoiceBook."""
        keyed = {(each.finalize_time, each.invoice_id): each for each in self._pages.invoices.values()}
        newest_first = sorted(keyed, reverse=True)
        if before is not None:
            newest_first = [key for key in newest_first if key < (before.finalize_time, before.invoice_id)]
        return [keyed[key] for key in newest_first[:count]]

    async def closings(self) -> Sequence[Closing]:
        """As InvoiceBook."""
        return [
            Closing(
                plan_id=each.plan_id,
                plan_version=each.plan_version,
                anchor=each.anchor,
                end_time=self._pages.timelines[each.subscription_id].end,
                closed_through={
                    invoice.period.start: invoice.closed_through_sequence
                    for invoice in self._pages.invoices.values()
                    if invoice.subscription_id == each.subscription_id
                },
            )
            for each in self._pages.subscriptions.values()
        ]

    async def finalize(self, invoice: Invoice, *, actor: str, request_id: str) -> Invoice:  # noqa: ARG002
        """As InvoiceBook."""
        self._pages.change(None)
        self._world.last_number += 1
        numbered = replace(invoice, number=invoice_number("TB", self._world.last_number))
        self._pages.invoices[invoice.invoice_id] = numbered
        if invoice.is_collectable and invoice.finalize_time is not None:
            due = DueInvoice(self._organization_id, invoice.invoice_id, 0)
            self._world.due[self._organization_id, invoice.invoice_id] = Due(due, invoice.finalize_time)
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
