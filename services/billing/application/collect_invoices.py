"""Collect invoices: hands finalized invoices to the collector. Closing a period never waits for it."""

from __future__ import annotations

import asyncio

import structlog

from kit.clock import Clock
from kit.errors import Refused
from services.billing.application.follow_payment import FollowPayment
from services.billing.application.ports.books import Books
from services.billing.application.ports.collection import CollectionList, Collector, DueInvoice
from services.billing.application.ports.payments import WaitingDraft
from services.billing.application.ports.stripe import CustomersAtStripe
from services.billing.application.stripe_customer import stripe_customer
from services.billing.domain import limits
from services.billing.domain.closing import CutKind
from services.billing.domain.errors import CollectionRefused, CustomerGone
from services.billing.domain.invoices import Invoice
from services.billing.domain.profile import BillingProfile
from services.billing.domain.retries import retry_pause
from services.billing.domain.stripe_objects import StripeInvoiceStatus

log = structlog.get_logger()


class CollectInvoices:
    """Works the list of uncollected invoices off."""

    def __init__(
        self,
        *,
        due: CollectionList,
        books: Books,
        collector: Collector,
        customers: CustomersAtStripe,
        follow_payment: FollowPayment,
        clock: Clock,
    ) -> None:
        self._due = due
        self._customers = customers
        self._follow_payment = follow_payment
        self._books = books
        self._collector = collector
        self._clock = clock

    async def __call__(self) -> int:
        """Hands over what is due and can be claimed; answers how many it claimed. What fails is due again after a
        pause; what the collector refuses is parked with the reason.
        """
        claimed = await self._due.claim(now=self._clock.now(), count=limits.CLAIMED_AT_ONCE)
        await asyncio.gather(*(self._collect(due) for due in claimed))
        return len(claimed)

    async def _collect(self, due: DueInvoice) -> None:
        try:
            async with asyncio.timeout(limits.CLAIM_WORK.total_seconds()):
                await self._hand_over(due)
        except CustomerGone as gone:
            log.warning("stripe_customer_gone", invoice_id=due.invoice_id, error=str(gone))
            await self._retry(due, str(gone))
        except CollectionRefused as refusal:
            await self._park(due, str(refusal))
        except (Refused, TimeoutError) as error:
            log.warning("invoice_retries", invoice_id=due.invoice_id, attempt=due.attempt_count, error=str(error))
            await self._retry(due, str(error))
        except Exception as error:
            # A defect of ours, on this invoice; the others do not wait for it.
            log.exception("invoice_failed", invoice_id=due.invoice_id, attempt=due.attempt_count)
            await self._retry(due, f"{type(error).__name__}: {error}")

    async def _retry(self, due: DueInvoice, error: str) -> None:
        at = self._clock.now() + retry_pause(due.attempt_count)
        await self._due.retry(due, at=at, error=error[: limits.ERROR_TEXT_MAX])

    async def _park(self, due: DueInvoice, reason: str) -> None:
        log.error("invoice_parked", invoice_id=due.invoice_id, reason=reason)
        await self._due.park(due, reason=reason[: limits.ERROR_TEXT_MAX])

    async def _hand_over(self, due: DueInvoice) -> None:
        async with self._books.read(due.organization_id) as reader:
            invoice = await reader.invoices.get(due.invoice_id)
            # The terms are those that the invoice was issued on; who the customer is, is as it is now.
            terms = (await reader.profile.at(invoice.finalize_time or self._clock.now())).terms
            profile = await reader.profile.current()
        draft = await self._draft_for(due, invoice)
        customer_id = await stripe_customer(
            self._books,
            self._customers,
            due.organization_id,
            now=invoice.finalize_time or self._clock.now(),
            attempt_count=due.attempt_count,
            found=draft.stripe_customer_id if draft is not None else "",
        )
        try:
            if draft is not None and draft.stripe_customer_id != customer_id:
                # Stripe may have charged it already: with an invoice beside it the customer would pay twice.
                raise CollectionRefused(
                    f"{draft.stripe_invoice_id} of {draft.stripe_customer_id} waits for this invoice, and the "
                    f"organization's customer is {customer_id}: void it at Stripe, or settle this invoice by hand"
                )
            await self._describe(customer_id, profile)
            if draft is not None:
                collected = await self._collector.adopt(
                    invoice, draft.stripe_invoice_id, terms=terms, attempt_count=due.attempt_count
                )
            else:
                collected = await self._collector.collect(
                    invoice, customer_id, terms=terms, attempt_count=due.attempt_count
                )
        except CustomerGone:
            async with self._books.open(due.organization_id) as book:
                await book.customer.forget_stripe_id(customer_id)
            raise
        # What Stripe drafted may have been charged before it was ours: whose event came then was nobody's.
        theirs = await self._collector.look_up(collected.stripe_invoice_id) if draft is not None else None
        async with self._books.open(due.organization_id) as book:
            await book.invoices.set_collected(due.invoice_id, collected.stripe_invoice_id)
            if theirs is not None:
                await self._follow_payment(book, invoice, theirs, actor="collector")
        log.info("invoice_collected", invoice_id=due.invoice_id, stripe_id=collected.stripe_invoice_id)

    async def _describe(self, customer_id: str, profile: BillingProfile) -> None:
        if not profile.version:
            return
        try:
            await self._customers.describe(customer_id, profile)
        except CustomerGone:
            raise
        except CollectionRefused as refusal:
            # A mail address, say, that Stripe knows no such host of: money is collected all the same.
            log.warning("customer_not_described", stripe_id=customer_id, error=str(refusal))

    async def _draft_for(self, due: DueInvoice, invoice: Invoice) -> WaitingDraft | None:
        """The draft of Stripe's own that the invoice goes onto, set aside for it; None: it gets one of ours."""
        if invoice.cut is CutKind.PURCHASE:
            # Stripe drafts for its subscriptions, and a purchase is about none.
            return None
        while True:
            async with self._books.read(due.organization_id) as reader:
                draft = await reader.payments.waiting_draft(due.invoice_id)
            if draft is None:
                return None
            theirs = await self._collector.look_up(draft.stripe_invoice_id)
            is_gone = theirs is None or theirs.status is StripeInvoiceStatus.VOID
            is_other = theirs is not None and theirs.currency_code != invoice.total.currency_code
            async with self._books.open(due.organization_id) as book:
                if not is_gone and not is_other:
                    await book.payments.use_draft(draft.stripe_invoice_id, due.invoice_id)
                    return draft
                await book.payments.drop_draft(draft.stripe_invoice_id)
