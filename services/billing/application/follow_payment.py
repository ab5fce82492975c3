"""Follow payment: an invoice goes where Stripe says that it is, and its organization's standing goes with it."""

from __future__ import annotations

from datetime import datetime

from kit.clock import Clock
from services.billing.application.give_back_credits import give_back_credits
from services.billing.application.ports.books import Book
from services.billing.application.ports.mails import Mail
from services.billing.application.settle_purchase import settle_purchase
from services.billing.application.settle_standing import invoice_in_mail, settle_standing
from services.billing.domain.closing import CutKind
from services.billing.domain.invoices import Invoice, InvoiceState
from services.billing.domain.mails import MailKind
from services.billing.domain.payments import state_told
from services.billing.domain.stripe_objects import StripeInvoice


class FollowPayment:
    """Writes what Stripe says of one invoice."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def __call__(self, book: Book, invoice: Invoice, theirs: StripeInvoice, *, actor: str) -> str:
        """Writes it in open books and answers the outcome in words. Repeating it, in whatever order, changes nothing.

        A failed payment begins dunning and grace; a payment ends both and lifts a suspension; what is given up
        suspends. What sells credits is not dunned, and grants them when it is paid.
        """
        state = state_told(theirs)
        if state is None or not await book.payments.follow(
            invoice.invoice_id, state, stripe_invoice_id=theirs.stripe_invoice_id, actor=actor
        ):
            return "nothing new"
        now = self._clock.now()
        if state is InvoiceState.VOID:
            await give_back_credits(book, invoice.invoice_id, at=now)
        if invoice.cut is CutKind.PURCHASE:
            # Nothing was handed over for it that could be owed: a payment grants, a failure changes nothing.
            await book.dunning.end(invoice.invoice_id, now=now)
            await settle_purchase(book, invoice.invoice_id, at=now, actor=actor)
            return state.value.lower()
        match state:
            case InvoiceState.PAID | InvoiceState.VOID:
                await self._end_dunning(book, invoice, state, now)
            case InvoiceState.PAST_DUE:
                await book.dunning.begin(invoice.invoice_id, now=now)
            case InvoiceState.UNCOLLECTIBLE:
                await book.dunning.begin(invoice.invoice_id, now=now)
                await book.dunning.note(invoice.invoice_id, (), is_suspending=True, next_time=None, now=now)
            case _:
                pass
        await settle_standing(book, actor=actor, now=now)
        return state.value.lower()

    async def _end_dunning(self, book: Book, invoice: Invoice, state: InvoiceState, now: datetime) -> None:
        was_dunned = any(each.invoice_id == invoice.invoice_id for each in await book.dunning.open_ones())
        await book.dunning.end(invoice.invoice_id, now=now)
        if was_dunned and state is InvoiceState.PAID:
            # Who was asked for money is told that it came.
            data = invoice_in_mail(invoice)
            await book.mails.add(Mail(kind=MailKind.PAYMENT_RECEIVED, reason=invoice.invoice_id, data=data), now=now)
