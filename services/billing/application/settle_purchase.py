"""Settle purchase: the credits that an invoice sells follow its money."""

from __future__ import annotations

from datetime import datetime

import structlog

from kit.money import Money
from services.billing.application.grant_credits import grant_for
from services.billing.application.ports.books import Book, BookReader
from services.billing.domain.credits import CreditSource
from services.billing.domain.invoices import Invoice, InvoiceState
from services.billing.domain.purchases import PurchaseStanding, taken_back

log = structlog.get_logger()


async def settle_purchase(book: Book, invoice_id: str, *, at: datetime, actor: str) -> None:
    """Grants what the invoice sells when it is paid, and revokes what went back, as far as it is left, in the
    transaction of what was learned. Once, however often it is called; an invoice that sells no credits is left alone.
    """
    invoice = await book.invoices.get(invoice_id)
    standing = await purchase_standing(book, invoice)
    if standing is None or invoice.state is not InvoiceState.PAID:
        return
    grant = await book.credits.granted_for(CreditSource.PURCHASE, invoice_id)
    if grant is None:
        await grant_for(
            book,
            standing.to_grant,
            source=CreditSource.PURCHASE,
            source_id=invoice_id,
            description=f"Bought with {invoice.number}",
            at=at,
            expire_time=standing.purchase.expire_time(at),
        )
        return
    if standing.to_revoke.minor:
        amount = standing.to_revoke
        await book.credits.revoke(grant.grant_id, at=at, actor=actor, request_id="", amount=amount)
    if standing.missing.minor:
        log.warning("purchase_missing", invoice_id=invoice_id, missing=str(standing.missing))


async def purchase_standing(book: BookReader, invoice: Invoice) -> PurchaseStanding | None:
    """What became of the credits that the invoice sells; None when it sells none."""
    purchase = await book.purchases.get(invoice.invoice_id)
    if purchase is None:
        return None
    back = taken_back(
        purchase,
        invoice.total,
        notes=await book.credit_notes.of_invoice(invoice.invoice_id),
        refunds=await book.payments.refunds(invoice.invoice_id),
        disputes=await book.payments.disputes(invoice.invoice_id),
    )
    grant = await book.credits.granted_for(CreditSource.PURCHASE, invoice.invoice_id)
    nothing = Money(0, purchase.amount.currency_code)
    if grant is None:
        return PurchaseStanding(purchase=purchase, taken_back=back, granted=nothing, available=nothing, revoked=nothing)
    return PurchaseStanding(
        purchase=purchase,
        taken_back=back,
        granted=grant.amount,
        available=(await book.credits.get(grant.grant_id)).available,
        revoked=await book.credits.revoked(grant.grant_id),
    )
