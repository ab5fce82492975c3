"""Dun invoices: takes the steps of dunning that are due, each once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from kit.clock import Clock
from kit.errors import Refused
from services.billing.application.follow_payment import FollowPayment
from services.billing.application.ports.books import Book, Books
from services.billing.application.ports.collection import Collector
from services.billing.application.ports.dunning import DueDunning, DunningList
from services.billing.application.ports.mails import Mail
from services.billing.application.settle_standing import invoice_in_mail, settle_standing
from services.billing.domain import limits
from services.billing.domain.dunning import Dunning, DunningAction, DunningPolicy, DunningStep, DunningTurn, next_turn
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.invoices import Invoice, InvoiceState
from services.billing.domain.mails import MailKind
from services.billing.domain.payments import Settlement
from services.billing.domain.retries import retry_pause
from services.billing.domain.stripe_objects import StripeInvoice, StripeInvoiceStatus
from services.billing.domain.wording import date_text

log = structlog.get_logger()

_ACTOR = "dunning"


class DunInvoices:
    """Works the list of due dunnings off."""

    def __init__(
        self,
        *,
        due: DunningList,
        books: Books,
        collector: Collector,
        policy: DunningPolicy,
        follow_payment: FollowPayment,
        clock: Clock,
    ) -> None:
        self._due = due
        self._books = books
        self._collector = collector
        self._policy = policy
        self._follow_payment = follow_payment
        self._clock = clock

    async def __call__(self) -> int:
        """Takes one step of each invoice that is due and can be claimed; answers how many it claimed. A step, its mail
        and its effect are one transaction; what fails is due again after a pause. The first look at an invoice that has
        a due time is when that passes: if it is unpaid then, it is past due, and its dunning begins.
        """
        claimed = await self._due.claim(now=self._clock.now(), count=limits.CLAIMED_AT_ONCE)
        await asyncio.gather(*(self._dun(due) for due in claimed))
        return len(claimed)

    async def _dun(self, due: DueDunning) -> None:
        try:
            async with asyncio.timeout(limits.CLAIM_WORK.total_seconds()):
                await self._step(due)
        except (Refused, CollectionRefused, TimeoutError) as error:
            log.warning("dunning_retries", invoice_id=due.invoice_id, attempt=due.attempt_count, error=str(error))
            await self._retry(due, str(error))
        except Exception as error:
            # A defect of ours, on this invoice; the others do not wait for it.
            log.exception("dunning_failed", invoice_id=due.invoice_id, attempt=due.attempt_count)
            await self._retry(due, f"{type(error).__name__}: {error}")

    async def _retry(self, due: DueDunning, error: str) -> None:
        at = self._clock.now() + retry_pause(due.attempt_count)
        await self._due.retry(due, at=at, error=error[: limits.ERROR_TEXT_MAX])

    async def _step(self, due: DueDunning) -> None:
        async with self._books.read(due.organization_id) as reader:
            dunning = next(
                (each for each in await reader.dunning.open_ones() if each.invoice_id == due.invoice_id), None
            )
            invoice = await reader.invoices.get(due.invoice_id)
        if invoice.state is InvoiceState.FINALIZED:
            await self._fall_due(invoice)
            return
        theirs = None
        if dunning is not None and self._gives_up(dunning) and invoice.state is InvoiceState.PAST_DUE:
            # Before the books are opened: nobody's lock waits for Stripe. If it was paid just now, Stripe says so.
            theirs = await self._collector.settle(invoice.stripe_invoice_id, Settlement.UNCOLLECTIBLE)
            if theirs.status is StripeInvoiceStatus.OPEN:
                raise CollectionRefused(f"{theirs.stripe_invoice_id} cannot be given up at Stripe")
        async with self._books.open(due.organization_id) as book:
            await self._write(book, due.invoice_id, theirs)

    async def _fall_due(self, invoice: Invoice) -> None:
        """The due time has passed. What is open at Stripe still is past due, and its dunning begins, with a first step
        that is due at once; what was paid there is paid.
        """
        theirs = await self._collector.look_up(invoice.stripe_invoice_id) if invoice.stripe_invoice_id else None
        if theirs is None or theirs.status is StripeInvoiceStatus.DRAFT:
            # That it cannot be paid there yet is no fault of the customer.
            raise CollectionRefused(f"{invoice.number} is not open at Stripe yet")
        told = replace(theirs, has_failed=theirs.status is StripeInvoiceStatus.OPEN)
        async with self._books.open(invoice.organization_id) as book:
            await self._follow_payment(book, invoice, told, actor=_ACTOR)

    def _gives_up(self, dunning: Dunning) -> bool:
        step = self._turn(dunning).step
        return step is not None and step.action is DunningAction.GIVE_UP

    def _turn(self, dunning: Dunning) -> DunningTurn:
        return next_turn(self._policy, dunning.begin_time, dunning.done, self._clock.now())

    async def _write(self, book: Book, invoice_id: str, theirs: StripeInvoice | None) -> None:
        invoice, now = await book.invoices.get(invoice_id), self._clock.now()
        open_ones = {each.invoice_id: each for each in await book.dunning.open_ones()}
        dunning = open_ones.get(invoice_id)
        if dunning is None or invoice.state is not InvoiceState.PAST_DUE:
            # Paid, void or given up between the claim and now: nothing is due any more.
            if dunning is not None:
                await book.dunning.note(invoice_id, (), is_suspending=False, next_time=None, now=now)
            return
        turn = self._turn(dunning)
        if turn.step is None or (turn.step.action is DunningAction.GIVE_UP and theirs is None):
            # Not yet; or only since we looked, so that Stripe has not been told: then at once again.
            again = turn.next_time if turn.step is None else now
            await book.dunning.note(invoice_id, turn.overtaken, is_suspending=False, next_time=again, now=now)
            return
        suspends = turn.step.action is not DunningAction.REMIND
        steps = (*turn.overtaken, turn.step.name)
        await book.dunning.note(invoice_id, steps, is_suspending=suspends, next_time=turn.next_time, now=now)
        if theirs is not None:
            await self._follow_payment(book, invoice, theirs, actor=_ACTOR)
            invoice = await book.invoices.get(invoice_id)
            if invoice.state is not InvoiceState.UNCOLLECTIBLE:
                return
        await settle_standing(book, actor=_ACTOR, now=now)
        kind = _mail_kind(turn.step, invoice)
        if kind is not None:
            reason = f"{invoice.invoice_id}/{turn.step.name}"
            data = invoice_in_mail(invoice)
            if kind is not MailKind.SUBSCRIPTION_SUSPENDED:
                data["suspend_date"] = date_text(self._policy.suspension_time(dunning.begin_time))
            await book.mails.add(Mail(kind=kind, reason=reason, data=data), now=now)
        log.info("dunning_step_taken", invoice_id=invoice_id, step=turn.step.name)


def _mail_kind(step: DunningStep, invoice: Invoice) -> MailKind | None:
    """What the customer is written; nothing when the invoice is given up: nothing changes for them. Where there is a
    due time nothing has failed: it has passed.
    """
    match step.action:
        case DunningAction.REMIND:
            has_failed = step.is_first_reminder and invoice.due_time is None
            return MailKind.PAYMENT_FAILED if has_failed else MailKind.PAYMENT_REMINDER
        case DunningAction.SUSPEND:
            return MailKind.SUBSCRIPTION_SUSPENDED
        case DunningAction.GIVE_UP:
            return None
