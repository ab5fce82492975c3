"""Give back credits: what paid an invoice that nobody owes any more is the customer's again."""

from __future__ import annotations

from datetime import datetime

from services.billing.application.ports.books import Book
from services.billing.application.settle_purchase import settle_purchase
from services.billing.domain.credits import CreditSource

_ACTOR = "service:billing"


async def give_back_credits(book: Book, invoice_id: str, *, at: datetime) -> None:
    """Gives back, in the transaction that voids the invoice, what prepaid credits paid of it, less what credit notes
    have given for it before. Once, however often it is called.
    """
    notes = await book.credit_notes.of_invoice(invoice_id)
    kept_minor = sum(note.split.credited.minor for note in notes)
    for use in await book.credits.give_back(invoice_id, at=at, kept_minor=kept_minor):
        grant = (await book.credits.get(use.grant_id)).grant
        if grant.source is CreditSource.PURCHASE:
            # Their money may have gone back while they were used: now they are there to be taken.
            await settle_purchase(book, grant.source_id, at=at, actor=_ACTOR)
