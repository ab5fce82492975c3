"""Make cut: one cut of a subscription, and the invoice that it comes to; and what it would come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kit.clock import Clock
from kit.errors import InvalidState
from kit.ids import new_id
from services.billing.application.count_usage import count_usage
from services.billing.application.find_plan import FindPlan
from services.billing.application.ports.books import Book, BookReader, Books
from services.billing.application.ports.usage import Usage
from services.billing.application.schedule_closes import schedule_close
from services.billing.application.tell_customers import tell_of_invoice
from services.billing.domain import limits
from services.billing.domain.closing import Close, Cut, scope_of
from services.billing.domain.credits import CreditGrant, CreditSource
from services.billing.domain.drafting import Account, draft_lines, plan_of, wanted_counts
from services.billing.domain.invoices import Invoice, InvoiceState, total_of
from services.billing.domain.invoicing import Settled, settled, tax_of
from services.billing.domain.meters import Meter
from services.billing.domain.rating import Counts, Terms
from services.billing.domain.tax import rates_at


@dataclass(frozen=True, slots=True)
class Order:
    """Who wants a cut made."""

    actor: str
    request_id: str = ""
    digest: bytes | None = None
    """What the request asked for, to be kept with the answer; None: no caller asked, and nothing is kept."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a cut is drafted from: the books as they were, and what is to be known of elsewhere for that."""

    account: Account
    terms: Terms
    meters: Mapping[str, Meter]
    counts: Counts


class MakeCut:
    """Makes and drafts cuts."""

    def __init__(self, books: Books, find_plan: FindPlan, usage: Usage, clock: Clock) -> None:
        self._books = books
        self._find_plan = find_plan
        self._usage = usage
        self._clock = clock

    async def __call__(self, organization_id: str, subscription_id: str, cut: Cut, order: Order) -> Close:
        """The one close of a cut, made now unless it was before; any number of callers get the same.

        Usage is read first, outside of any lock; the books are opened then, and when they say something else by now
        it starts anew. Raises NotFound, InvalidState when they never hold still, and DependencyUnavailable, each with
        nothing made.
        """
        for _ in range(limits.CLOSE_ATTEMPTS_MAX):
            async with self._books.read(organization_id) as reader:
                account = await _account(reader, subscription_id, cut)
            reading = None if account.close_of(cut) else await self._read(organization_id, account, cut)
            async with self._books.open(organization_id) as book:
                now_account = await _account(book, subscription_id, cut)
                made = await _answered(book, now_account, order) or now_account.close_of(cut)
                if made is not None:
                    await _remember(book, order, made)
                    return made
                if reading is not None and _is_as_read(now_account, account):
                    return await self._make(book, organization_id, replace(reading, account=now_account), cut, order)
        raise InvalidState(problem="The subscription changed again and again while it was closed; close it again.")

    async def draft(self, organization_id: str, subscription_id: str, cut: Cut) -> Invoice:
        """What the cut would come to now, without id and number, and without a line when that is nothing. Raises
        NotFound and DependencyUnavailable.
        """
        async with self._books.read(organization_id) as reader:
            account = await _account(reader, subscription_id, cut)
        reading = await self._read(organization_id, account, cut)
        async with self._books.read(organization_id) as reader:
            invoice, _ = await self._invoice(reader, organization_id, reading, cut)
        return invoice

    async def _read(self, organization_id: str, account: Account, cut: Cut) -> _Reading:
        refs = {phase.plan for phase in account.timeline.phases}
        terms = {ref: await self._find_plan(organization_id, ref) for ref in refs}
        wanted = wanted_counts(account, terms, cut)
        counts = await count_usage(
            self._usage, organization_id, wanted, at=account.timeline.period_at(cut.period_start)
        )
        return _Reading(account, terms, await self._usage.meters(), counts)

    async def _make(self, book: Book, organization_id: str, reading: _Reading, cut: Cut, order: Order) -> Close:
        account, now = reading.account, self._clock.now()
        subscription_id = account.timeline.subscription_id
        draft, result = await self._invoice(book, organization_id, reading, cut)
        invoice_id = new_id("inv") if draft.lines else ""
        close = Close(cut=cut, through_sequence=reading.counts.as_of_sequence, invoice_id=invoice_id)
        await book.closes.add(subscription_id, close, at=now)
        await schedule_close(book, account.timeline)
        await _remember(book, order, close)
        if invoice_id:
            terms = (await book.profile.current()).terms
            final = replace(
                draft,
                invoice_id=invoice_id,
                state=_state_of(draft),
                finalize_time=now,
                due_time=terms.due_time(now) if draft.is_collectable else None,
            )
            await book.credits.apply(result.uses, invoice_id=invoice_id, at=now)
            if result.to_credit is not None:
                grant = CreditGrant(
                    grant_id=new_id("crd"),
                    amount=result.to_credit,
                    priority=0,
                    grant_time=now,
                    expire_time=None,
                    source=CreditSource.INVOICE,
                    source_id=invoice_id,
                )
                await book.credits.grant(grant, actor=order.actor, request_id=order.request_id)
            # The number is taken last: every other close of the legal entity waits from there on.
            issued = await book.invoices.finalize(final, actor=order.actor, request_id=order.request_id)
            await tell_of_invoice(book, issued, now=now)
        return close

    async def _invoice(
        self, book: BookReader, organization_id: str, reading: _Reading, cut: Cut
    ) -> tuple[Invoice, Settled]:
        account, now = reading.account, self._clock.now()
        timeline, currency_code = account.timeline, account.timeline.currency_code
        period = timeline.period_at(cut.period_start)
        lines = draft_lines(account, reading.terms, reading.meters, reading.counts, cut)
        rates = rates_at(await book.profile.tax_history(), now)
        taxed = (*lines, *tax_of(lines, rates, period=period, currency_code=currency_code))
        standings = await book.credits.standings() if lines else ()
        result = settled(taxed, standings, period=period, currency_code=currency_code, now=now)
        plan = plan_of(timeline, cut)
        profile = await book.profile.current()
        invoice = Invoice(
            organization_id=organization_id,
            subscription_id=timeline.subscription_id,
            plan_id=plan.plan_id,
            plan_version=plan.version,
            state=InvoiceState.DRAFT,
            total=total_of(result.lines, currency_code),
            lines=result.lines,
            period=period,
            closed_through_sequence=reading.counts.as_of_sequence,
            cut=cut.kind,
            legal_entity_id=profile.terms.legal_entity_id,
        )
        return invoice, result


async def _account(book: BookReader, subscription_id: str, cut: Cut) -> Account:
    timeline = await book.subscriptions.timeline(subscription_id)
    return Account(
        timeline=timeline,
        closes=tuple(await book.closes.of(subscription_id)),
        invoiced=await book.closes.invoiced(subscription_id, after=scope_of(timeline, cut).base_after),
        redemptions=tuple(await book.coupons.redemptions()),
    )


def _is_as_read(account: Account, before: Account) -> bool:
    """Whether what was counted is what has to be counted. Everything else is read again in the open books."""
    return account.timeline == before.timeline and set(account.closes) == set(before.closes)


def _state_of(draft: Invoice) -> InvoiceState:
    """Of nothing there is nothing to pay."""
    return InvoiceState.FINALIZED if draft.is_collectable else InvoiceState.PAID


async def _answered(book: Book, account: Account, order: Order) -> Close | None:
    """What the same request made first, when it came twice at once; None: it did not."""
    if order.digest is None:
        return None
    answer = await book.requests.answer_to(order.request_id, order.digest)
    return next((close for close in account.closes if close.invoice_id == answer), None)


async def _remember(book: Book, order: Order, close: Close) -> None:
    if order.digest is not None and await book.requests.answer_to(order.request_id, order.digest) is None:
        await book.requests.remember(order.request_id, order.digest, close.invoice_id)
