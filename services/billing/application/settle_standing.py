"""Settle standing: whether an organization may use what it is subscribed to, by what it has not paid."""

from __future__ import annotations

from datetime import datetime

from services.billing.application.ports.books import Book
from services.billing.application.ports.subscriptions import Act
from services.billing.domain.catalog import FREE_PLAN
from services.billing.domain.dunning import standing_of
from services.billing.domain.invoices import Invoice
from services.billing.domain.lifecycle import has_ended


async def settle_standing(book: Book, *, actor: str, now: datetime) -> None:
    """Puts the subscription in force, in open books, where all unpaid invoices put it, those of earlier subscriptions
    too; `free` owes nothing. Followers of the entitlement feed hear of it within a second.
    """
    current = await book.subscriptions.in_force()
    if current is None or current.plan_id == FREE_PLAN:
        return
    standing = standing_of(await book.dunning.open_ones())
    timeline = await book.subscriptions.timeline(current.subscription_id)
    if standing is current.standing or has_ended(timeline, now):
        return
    act = Act(action="payment_standing", actor=actor, request_id="", now=now)
    await book.subscriptions.change(timeline, standing, act)


def invoice_in_mail(invoice: Invoice) -> dict[str, str]:
    """What a mail about an invoice says of it."""
    return {"number": invoice.number, "total": f"{invoice.total.currency_code} {invoice.total}"}
