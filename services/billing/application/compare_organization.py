"""Compare organization: our record of one organization with Stripe's, and its invoices with the ledger."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from kit.clock import Clock
from kit.errors import NotFound
from services.billing.application.make_cut import MakeCut
from services.billing.application.ports.books import BookReader, Books
from services.billing.application.ports.reconciliation import RecordsAtStripe
from services.billing.application.ports.usage import Usage
from services.billing.domain import limits
from services.billing.domain.closing import Closing, Cut, CutKind
from services.billing.domain.dues import DueKey, DueKind
from services.billing.domain.invoices import Invoice, InvoiceFilters, InvoiceKey, InvoiceState
from services.billing.domain.invoicing import Invoiced
from services.billing.domain.periods import Period
from services.billing.domain.reconciliation import (
    Difference,
    OurInvoice,
    OurRecord,
    TheirRecord,
    UsageOnInvoices,
    differences,
    not_invoiced,
    usage_differences,
)

_STILL_OPEN = frozenset({InvoiceState.FINALIZED, InvoiceState.PAST_DUE, InvoiceState.UNCOLLECTIBLE})
_CLOSED_BY = frozenset({CutKind.PERIOD, CutKind.FINAL})
_ANY_ORDINAL = 2**31 - 1
"""Of a look that is only drafted: none that was made has it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and what differs."""

    ours: OurRecord
    theirs: TheirRecord
    differences: tuple[Difference, ...]
    """In the order of their ids, without those that somebody has accepted."""


@dataclass(frozen=True, slots=True)
class _Closed:
    """A period that was closed, and what invoices hold of it."""

    subscription_id: str
    period: Period
    is_looked_at_again: bool
    """Whether a cut to come looks at it: what is missing on invoices until now is pending."""
    invoiced: tuple[tuple[DueKey, Invoiced], ...]


class CompareOrganization:
    """Compares both ways; changes nothing."""

    def __init__(self, books: Books, records: RecordsAtStripe, usage: Usage, make_cut: MakeCut, clock: Clock) -> None:
        self._books = books
        self._records = records
        self._usage = usage
        self._make_cut = make_cut
        self._clock = clock

    async def __call__(self, organization_id: str, customers: Collection[str]) -> Comparison:
        """customers: those that bear the organization at Stripe, besides the one that it has. Raises
        DependencyUnavailable and CollectionRefused.
        """
        since = self._clock.now() - limits.RECONCILE_BACK
        # Theirs is read last: what Stripe did between the two looks is young, and pending.
        async with self._books.read(organization_id) as book:
            ours = await _our_record(book, organization_id, since)
        there = [each.invoice.stripe_invoice_id for each in ours.invoices if each.invoice.stripe_invoice_id]
        theirs = await self._records.read(customers, kept=ours.stripe_customer_id, invoices=there, since=since)
        async with self._books.read(organization_id) as book:
            ours = await _with_named_there(book, ours, theirs)
            closed = await self._closed_periods(book)
            accepted = await book.reconciliation.accepted()
        found = [*differences(ours, theirs), *await self._usage_differences(organization_id, closed)]
        left = [each for each in found if each.difference_id not in accepted]
        return Comparison(ours, theirs, tuple(sorted(left, key=lambda each: each.difference_id)))

    async def _closed_periods(self, book: BookReader) -> Sequence[_Closed]:
        now, found = self._clock.now(), list[_Closed]()
        after = now - limits.RECONCILE_USAGE_BACK
        for timeline in await book.subscriptions.timelines():
            closes = tuple(await book.closes.of(timeline.subscription_id))
            made = {close.cut.period_start for close in closes if close.cut.kind in _CLOSED_BY}
            periods = [each for each in timeline.periods(now) if each.start in made and each.end > after]
            if not periods:
                continue
            needed = Closing(timeline=timeline, closes=closes).needed_from()
            invoiced = await book.closes.invoiced(timeline.subscription_id, after=after)
            found += [
                _Closed(
                    timeline.subscription_id,
                    period,
                    needed is not None and needed <= period.start,
                    tuple(each for each in invoiced.items() if each[0].interval == period),
                )
                for period in periods
            ]
        return found

    async def _usage_differences(self, organization_id: str, closed: Sequence[_Closed]) -> Sequence[Difference]:
        counted = [
            await self._count(organization_id, each, key, invoiced)
            for each in closed
            for key, invoiced in each.invoiced
            if key.kind is DueKind.OVERAGE and invoiced.meter and invoiced.last_sequence
        ]
        found = list(usage_differences(counted))
        wrong = {(each.object_id, each.period_start) for each in found}
        for each in closed:
            # What an invoice counts wrongly, closing again puts right together with what is missing.
            if each.is_looked_at_again or (each.subscription_id, each.period.start) in wrong:
                continue
            cut = Cut(CutKind.RERATED, each.period.start, _ANY_ORDINAL)
            draft = await self._make_cut.draft(organization_id, each.subscription_id, cut)
            missing = not_invoiced(draft, since=each.period.end)
            found += [missing] if missing else []
        return found

    async def _count(self, organization_id: str, closed: _Closed, key: DueKey, invoiced: Invoiced) -> UsageOnInvoices:
        segment = Period(key.segment_start, invoiced.segment.end)
        totals = await self._usage.totals(
            organization_id, segment, [invoiced.meter], as_of_sequence=invoiced.last_sequence
        )
        return UsageOnInvoices(
            organization_id=organization_id,
            subscription_id=closed.subscription_id,
            invoice_id=invoiced.invoice_id,
            meter=invoiced.meter,
            segment=segment,
            period=closed.period,
            invoiced_quantity=invoiced.used_quantity,
            counted_quantity=totals.quantities.get(invoiced.meter, 0),
            since=closed.period.end,
        )


async def _our_record(book: BookReader, organization_id: str, since: datetime) -> OurRecord:
    recent = await _all(book, InvoiceFilters(finalized_from=since))
    still_open = await _all(book, InvoiceFilters(states=_STILL_OPEN, finalized_before=since))
    return OurRecord(
        organization_id=organization_id,
        stripe_customer_id=await book.customer.stripe_id(),
        invoices=await _described(book, [*recent, *still_open]),
    )


async def _with_named_there(book: BookReader, ours: OurRecord, theirs: TheirRecord) -> OurRecord:
    """With the older invoices of ours that theirs name, and those that were made between the two looks."""
    named = {each.invoice.invoice_id for each in theirs.invoices if each.invoice.invoice_id}
    found: list[Invoice] = []
    for invoice_id in sorted(named - {each.invoice.invoice_id for each in ours.invoices}):
        # Whoever may write at Stripe may write any id there: that it is none of ours is what is to be found out.
        with suppress(NotFound):
            found.append(await book.invoices.get(invoice_id))
    return replace(ours, invoices=(*ours.invoices, *await _described(book, found)))


async def _described(book: BookReader, invoices: Sequence[Invoice]) -> tuple[OurInvoice, ...]:
    on_their_way = await book.reconciliation.on_their_way()
    return tuple(
        [
            OurInvoice(
                invoice=each,
                is_on_its_way=each.invoice_id in on_their_way,
                refunds=tuple(await book.payments.refunds(each.invoice_id)),
            )
            for each in invoices
        ]
    )


async def _all(book: BookReader, filters: InvoiceFilters) -> list[Invoice]:
    found: list[Invoice] = []
    before: InvoiceKey | None = None
    while len(found) < limits.RECONCILE_INVOICES_MAX:
        page = await book.invoices.newest_first(before=before, count=limits.PAGE_INVOICES_MAX, filters=filters)
        found += page
        last = page[-1] if len(page) == limits.PAGE_INVOICES_MAX else None
        if last is None or last.finalize_time is None:
            break
        before = InvoiceKey(last.finalize_time, last.invoice_id)
    return found
