"""Buy credits: an invoice of their own, whose payment grants them."""

from __future__ import annotations

from dataclasses import replace

from kit.clock import Clock
from kit.errors import LimitExceeded
from kit.ids import new_id
from kit.money import Money
from services.billing.application.ports.books import Book, Books
from services.billing.application.tell_customers import tell_of_invoice
from services.billing.domain import limits
from services.billing.domain.closing import CutKind
from services.billing.domain.invoices import Invoice, InvoiceState, total_of
from services.billing.domain.invoicing import settled, tax_of
from services.billing.domain.purchases import CreditPurchase, purchase_line, require_purchase
from services.billing.domain.requests import request_digest, require_request_id
from services.billing.domain.tax import rates_at


class BuyCredits:
    """Sells prepaid credits."""

    def __init__(self, books: Books, clock: Clock, *, valid_days: int) -> None:
        """valid_days: how long credits that are bought from now on pay, from their payment on; 0: for ever."""
        self._books = books
        self._clock = clock
        self._valid_days = valid_days

    async def __call__(self, organization_id: str, amount: Money, *, request_id: str, actor: str) -> Invoice:
        """The finalized invoice that sells them: one line and its taxes, numbered and collected like any other, and not
        paid by credits. Nothing is granted before it is paid.

        Idempotent: the same request again answers the invoice as it is then. Raises InvalidField, LimitExceeded while
        too many purchases are unpaid, and RequestIdReused.
        """
        require_request_id(request_id)
        require_purchase(amount)
        digest = request_digest("BuyCredits", organization_id, [amount.minor, amount.currency_code])
        async with self._books.open(organization_id) as book:
            made = await book.requests.answer_to(request_id, digest)
            if made is not None:
                return await book.invoices.get(made)
            unpaid = await book.purchases.unpaid_count()
            if unpaid >= limits.UNPAID_PURCHASES_MAX:
                raise LimitExceeded(what="unpaid purchases", actual=unpaid + 1, maximum=limits.UNPAID_PURCHASES_MAX)
            invoice = await self._invoice(book, organization_id, amount)
            purchase = CreditPurchase(invoice_id=invoice.invoice_id, amount=amount, valid_days=self._valid_days)
            await book.purchases.add(purchase)
            await book.requests.remember(request_id, digest, invoice.invoice_id)
            issued = await book.invoices.finalize(invoice, actor=actor, request_id=request_id)
            await tell_of_invoice(book, issued, now=self._clock.now())
            return issued

    async def _invoice(self, book: Book, organization_id: str, amount: Money) -> Invoice:
        now, currency_code = self._clock.now(), amount.currency_code
        line = purchase_line(amount, valid_days=self._valid_days, now=now)
        rates = rates_at(await book.profile.tax_history(), now)
        taxes = tax_of([line], rates, period=line.period, currency_code=currency_code)
        # No grants: credits that buy credits would only be moved, and lose their expiry on the way.
        result = settled([line, *taxes], (), period=line.period, currency_code=currency_code, now=now)
        profile = await book.profile.current()
        draft = Invoice(
            organization_id=organization_id,
            subscription_id="",
            plan_id="",
            plan_version=0,
            state=InvoiceState.DRAFT,
            total=total_of(result.lines, currency_code),
            lines=result.lines,
            period=line.period,
            closed_through_sequence=0,
            cut=CutKind.PURCHASE,
            legal_entity_id=profile.terms.legal_entity_id,
        )
        due_time = profile.terms.due_time(now)
        return replace(
            draft, invoice_id=new_id("inv"), state=InvoiceState.FINALIZED, finalize_time=now, due_time=due_time
        )
