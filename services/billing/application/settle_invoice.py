"""Settle invoice: an operator voids an invoice, gives it up, or says that it was paid outside of Stripe."""

from __future__ import annotations

import asyncio

from kit.clock import Clock
from kit.errors import InvalidState
from services.billing.application.follow_payment import FollowPayment
from services.billing.application.give_back_credits import give_back_credits
from services.billing.application.ports.books import Book, Books
from services.billing.application.ports.collection import CollectionList, Collector
from services.billing.application.settle_purchase import settle_purchase
from services.billing.application.settle_standing import settle_standing
from services.billing.domain import limits
from services.billing.domain.closing import CutKind
from services.billing.domain.errors import CollectionRefused, InvoiceBusy
from services.billing.domain.invoices import Invoice, InvoiceState
from services.billing.domain.payments import Settlement, states_before
from services.billing.domain.requests import request_digest, require_request_id
from services.billing.domain.retries import retry_pause
from services.billing.domain.stripe_objects import StripeInvoice, StripeInvoiceStatus


class SettleInvoice:
    """Settles one invoice, whoever else does something about it at this moment."""

    def __init__(
        self, books: Books, due: CollectionList, collector: Collector, follow_payment: FollowPayment, clock: Clock
    ) -> None:
        self._books = books
        self._due = due
        self._collector = collector
        self._follow_payment = follow_payment
        self._clock = clock

    async def __call__(
        self, organization_id: str, invoice_id: str, settlement: Settlement, *, request_id: str, actor: str
    ) -> Invoice:
        """The invoice, settled so. Stripe decides who was first: our books say afterwards what Stripe says.

        The same request again answers the invoice as it is. Raises NotFound, InvalidState when it is settled otherwise
        already (a card was charged before it was marked as paid outside, say), InvoiceBusy while it is being handed to
        Stripe, RequestIdReused and DependencyUnavailable.
        """
        require_request_id(request_id)
        digest = request_digest("SettleInvoice", organization_id, invoice_id, settlement.value)
        async with self._books.read(organization_id) as reader:
            answered = await reader.requests.answer_to(request_id, digest)
            invoice = await reader.invoices.get(invoice_id)
        if answered is not None:
            return invoice
        _require_open(invoice, settlement)
        async with asyncio.timeout(limits.CLAIM_WORK.total_seconds()):
            theirs = await self._settle_there(invoice, settlement)
        async with self._books.open(organization_id) as book:
            if theirs is None:
                await self._settle_here(book, invoice_id, settlement, actor)
            else:
                await self._follow_payment(book, invoice, theirs, actor=actor)
            settled = await book.invoices.get(invoice_id)
            if settled.state is settlement.state and _is_as_asked(theirs, settlement):
                await book.requests.remember(request_id, digest, invoice_id)
                return settled
        raise InvalidState(problem=f"The invoice is {_words(settled.state, theirs)} meanwhile.")

    async def _settle_there(self, invoice: Invoice, settlement: Settlement) -> StripeInvoice | None:
        """How Stripe has it afterwards; None: it has never arrived there, and nobody hands it over now."""
        try:
            if invoice.stripe_invoice_id:
                return await self._collector.settle(invoice.stripe_invoice_id, settlement)
            claim = await self._due.claim_one(invoice.organization_id, invoice.invoice_id, now=self._clock.now())
            if claim.is_held:
                raise InvoiceBusy(invoice_id=invoice.invoice_id, seconds=limits.RETRY_FIRST.total_seconds())
            if claim.due is None:
                # Never to be collected, or handed over since we looked: then its id at Stripe is known by now.
                return await self._settle_known(invoice, settlement)
            try:
                return await self._settle_half_way(invoice, settlement)
            finally:
                # Whatever came of it: who is still to hand it over needs not wait for the end of the lease.
                at = self._clock.now() + retry_pause(1)
                await self._due.retry(claim.due, at=at, error=f"claimed to be settled: {settlement.value}")
        except CollectionRefused as refusal:
            raise InvalidState(problem=f"Stripe does not allow it: {refusal}") from refusal

    async def _settle_known(self, invoice: Invoice, settlement: Settlement) -> StripeInvoice | None:
        async with self._books.read(invoice.organization_id) as reader:
            known = (await reader.invoices.get(invoice.invoice_id)).stripe_invoice_id
        return await self._collector.settle(known, settlement) if known else None

    async def _settle_half_way(self, invoice: Invoice, settlement: Settlement) -> StripeInvoice | None:
        """What an attempt to hand it over has left there: a draft is taken away, an open one is settled."""
        async with self._books.read(invoice.organization_id) as reader:
            customer_id = await reader.customer.stripe_id()
        theirs = await self._collector.find(invoice, customer_id) if customer_id else None
        if theirs is None:
            return None
        if theirs.status is StripeInvoiceStatus.DRAFT:
            await self._collector.settle(theirs.stripe_invoice_id, Settlement.VOID)
            return None
        return await self._collector.settle(theirs.stripe_invoice_id, settlement)

    async def _settle_here(self, book: Book, invoice_id: str, settlement: Settlement, actor: str) -> None:
        """Nothing of it is at Stripe, and nothing will be: what is settled is handed over no more."""
        moved = await book.payments.follow(invoice_id, settlement.state, stripe_invoice_id="", actor=actor)
        await book.payments.take_off(invoice_id)
        if not moved:
            # Somebody else was first, and whatever follows from that is done.
            return
        now = self._clock.now()
        if settlement is Settlement.VOID:
            await give_back_credits(book, invoice_id, at=now)
        await settle_purchase(book, invoice_id, at=now, actor=actor)
        # Nobody is suspended for credits that were not handed over.
        is_owed = (await book.invoices.get(invoice_id)).cut is not CutKind.PURCHASE
        if settlement is Settlement.UNCOLLECTIBLE and is_owed:
            await book.dunning.begin(invoice_id, now=now)
            await book.dunning.note(invoice_id, (), is_suspending=True, next_time=None, now=now)
        else:
            await book.dunning.end(invoice_id, now=now)
        await settle_standing(book, actor=actor, now=now)


def _require_open(invoice: Invoice, settlement: Settlement) -> None:
    if invoice.state not in states_before(settlement.state):
        raise InvalidState(problem=f"The invoice is {invoice.state.value}: it cannot become {settlement.state.value}.")


def _is_as_asked(theirs: StripeInvoice | None, settlement: Settlement) -> bool:
    return theirs is None or settlement is not Settlement.PAID_OUTSIDE or theirs.is_paid_outside


def _words(state: InvoiceState, theirs: StripeInvoice | None) -> str:
    paid_there = state is InvoiceState.PAID and theirs is not None and not theirs.is_paid_outside
    return "PAID through Stripe" if paid_there else state.value
