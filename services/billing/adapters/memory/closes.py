"""Closes in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from services.billing.adapters.memory.world import DueCloseRow, World
from services.billing.application.ports.closes import DueClose
from services.billing.domain.closing import Close
from services.billing.domain.dues import DueKey
from services.billing.domain.invoices import Invoice, InvoiceState, Line
from services.billing.domain.invoicing import Invoiced


class MemoryCloses:
    """CloseBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._world = world
        self._pages = world.pages[organization_id]
        self._organization_id = organization_id

    async def of(self, subscription_id: str) -> Sequence[Close]:
        """As CloseBook."""
        return [close for (holder, _), close in self._pages.closes.items() if holder == subscription_id]

    async def invoiced(self, subscription_id: str, *, after: datetime) -> Mapping[DueKey, Invoiced]:
        """As CloseBook."""
        held: dict[DueKey, Invoiced] = {}
        for invoice in self._pages.invoices.values():
            for number, line in enumerate(invoice.lines, start=1):
                if invoice.subscription_id == subscription_id and line.key and line.key.interval.end > after:
                    taken_back = self._taken_back_minor(invoice, number)
                    held[line.key] = _together(held.get(line.key), invoice, line, taken_back)
        return held

    def _taken_back_minor(self, invoice: Invoice, number: int) -> int:
        if invoice.state is InvoiceState.VOID:
            return invoice.lines[number - 1].amount.minor
        notes = [note for note in self._pages.credit_notes.values() if note.invoice_id == invoice.invoice_id]
        return sum(line.amount.minor for note in notes for line in note.lines if line.line_number == number)

    async def add(self, subscription_id: str, close: Close, *, at: datetime) -> None:  # noqa: ARG002
        """As CloseBook."""
        if (subscription_id, close.cut) in self._pages.closes:
            msg = f"the cut {close.cut} is made already"
            raise AssertionError(msg)
        self._pages.closes[subscription_id, close.cut] = close

    async def schedule(self, subscription_id: str, at: datetime | None) -> None:
        """As CloseBook."""
        place = (self._organization_id, subscription_id)
        if at is None:
            self._world.due_closes.pop(place, None)
        else:
            self._world.due_closes[place] = DueCloseRow(DueClose(*place, 0), at)


def _together(before: Invoiced | None, invoice: Invoice, line: Line, taken_back_minor: int) -> Invoiced:
    return Invoiced(
        amount=line.amount if before is None else before.amount + line.amount,
        used_quantity=line.difference_quantity + (before.used_quantity if before else 0),
        meter=line.meter,
        last_sequence=max(line.last_sequence, before.last_sequence if before else 0),
        segment=line.period,
        invoice_id=invoice.invoice_id,
        invoice_number=invoice.number,
        taken_back_minor=taken_back_minor + (before.taken_back_minor if before else 0),
    )
