"""Give back credits: what paid an invoice that nobody owes any more is the customer's again."""

from __future__ import annotations

from datetime import datetime

from services.billing.application.ports.books import Book


async def give_back_credits(book: Book, invoice_id: str, *, at: datetime) -> None:
    """Gives back, in the transaction that voids the invoice, what prepaid credits paid of it, less what credit notes
    have given for it before. Once, however often it is called.
    """
    notes = await book.credit_notes.of_invoice(invoice_id)
    kept_minor = sum(note.split.credited.minor for note in notes)
    await book.credits.give_back(invoice_id, at=at, kept_minor=kept_minor)
