"""Apply repairs: what a report proposed and an operator chose, each only while its difference is still there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import structlog

from kit.clock import Clock
from kit.errors import InvalidField, LimitExceeded, Refused
from services.billing.application.close_billing_period import CloseBillingPeriod
from services.billing.application.compare_organization import CompareOrganization, Comparison
from services.billing.application.follow_payment import FollowPayment
from services.billing.application.ports.books import Books
from services.billing.application.ports.collection import Collector
from services.billing.application.ports.reconciliation import Found, RecordsAtStripe, Report, Reports
from services.billing.application.ports.stripe import CustomersAtStripe
from services.billing.application.settle_purchase import settle_purchase
from services.billing.domain import limits
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.invoices import Invoice, InvoiceState
from services.billing.domain.payments import Settlement
from services.billing.domain.reconciliation import Difference, DriftKind, Repair, number_there
from services.billing.domain.requests import request_digest, require_request_id
from services.billing.domain.stripe_objects import StripeInvoiceStatus

log = structlog.get_logger()

REPAIRED, GONE = "repaired", "gone"
_SETTLEMENTS = {
    InvoiceState.VOID: Settlement.VOID,
    InvoiceState.UNCOLLECTIBLE: Settlement.UNCOLLECTIBLE,
    InvoiceState.PAID: Settlement.PAID_OUTSIDE,
}
# Stripe answers a key again for a day; an hour is longer than anything tries under one, so each hour has its own.
_ATTEMPTS_PER_HOUR = 3
_HOUR_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class _Way:
    """Who wants a repair, and what it goes by."""

    actor: str
    request_id: str
    comparison: Comparison


class ApplyRepairs:
    """Applies repairs one by one."""

    def __init__(
        self,
        *,
        reports: Reports,
        books: Books,
        records: RecordsAtStripe,
        compare: CompareOrganization,
        collector: Collector,
        customers: CustomersAtStripe,
        follow_payment: FollowPayment,
        close_billing_period: CloseBillingPeriod,
        clock: Clock,
    ) -> None:
        self._reports = reports
        self._books = books
        self._records = records
        self._compare = compare
        self._collector = collector
        self._customers = customers
        self._follow_payment = follow_payment
        self._close_billing_period = close_billing_period
        self._clock = clock

    async def __call__(
        self,
        report_id: str,
        *,
        difference_ids: Collection[str] = (),
        kinds: Collection[DriftKind] = (),
        request_id: str,
        actor: str,
    ) -> Sequence[Found]:
        """The chosen differences, each with its outcome. Before each repair the organization is
        compared anew: a difference that is no longer there as it was reported is `gone`, and nothing is done. A repair
        that fails holds up no other. The same request again applies nothing and answers the outcomes.

        Raises NotFound, InvalidField, LimitExceeded, RequestIdReused and DependencyUnavailable.
        """
        require_request_id(request_id)
        if len(difference_ids) > limits.REPAIRS_MAX:
            raise LimitExceeded(what="difference_ids", actual=len(difference_ids), maximum=limits.REPAIRS_MAX)
        report = await self._reports.get(report_id)
        chosen = await self._chosen(report, difference_ids, kinds)
        wanted = [sorted(difference_ids), sorted(kind.value for kind in kinds)]
        digest = request_digest("ApplyRepairs", report_id, *wanted)
        if await self._reports.begin_repairs(request_id, digest, report_id=report_id, actor=actor):
            customers = await self._records.customers(since=self._clock.now() - limits.RECONCILE_BACK)
            for found in chosen:
                difference = found.difference
                outcome = await self._repair(
                    difference, customers.get(difference.organization_id, frozenset()), actor, request_id
                )
                async with self._books.open(difference.organization_id) as book:
                    await book.reconciliation.set_outcome(report_id, difference.difference_id, outcome)
        return await self._chosen(report, difference_ids, kinds)

    async def _chosen(
        self, report: Report, difference_ids: Collection[str], kinds: Collection[DriftKind]
    ) -> Sequence[Found]:
        every: list[Found] = []
        for organization_id in report.organization_ids:
            async with self._books.read(organization_id) as book:
                every += await book.reconciliation.of_report(report.report_id)
        unknown = set(difference_ids) - {each.difference.difference_id for each in every}
        if unknown:
            raise InvalidField(field="difference_ids", problem=f"{min(unknown)[:64]!r} is not in the report")
        named = [each for each in every if each.difference.difference_id in difference_ids]
        # By kind nobody asks for what work under way is about to settle; who wants that names it.
        of_kinds = [each for each in every if each.difference.kind in kinds and not each.is_pending]
        return list({each.difference.difference_id: each for each in [*named, *of_kinds]}.values())

    async def _repair(self, difference: Difference, customers: Collection[str], actor: str, request_id: str) -> str:
        try:
            comparison = await self._compare(difference.organization_id, customers)
            # What is to be done of it may have changed with something else: then it is another difference by now.
            same = (difference.difference_id, difference.repair)
            if same not in {(each.difference_id, each.repair) for each in comparison.differences}:
                return GONE
            await self._apply(difference, _Way(actor, request_id, comparison))
        except (Refused, CollectionRefused) as error:
            log.warning("repair_failed", difference_id=difference.difference_id, error=str(error))
            return f"failed: {error}"[: limits.ERROR_TEXT_MAX]
        log.info("repaired", difference_id=difference.difference_id, repair=difference.repair.value, actor=actor)
        return REPAIRED

    async def _apply(self, difference: Difference, way: _Way) -> None:
        organization_id = difference.organization_id
        match difference.repair:
            case Repair.FORGET_CUSTOMER:
                async with self._books.open(organization_id) as book:
                    await book.customer.forget_stripe_id(difference.stripe_id)
            case Repair.FOLLOW_STRIPE:
                await self._follow(difference, way)
            case Repair.SETTLE_AT_STRIPE:
                invoice = _invoice(difference, way)
                await self._collector.settle(difference.stripe_id, _SETTLEMENTS[invoice.state])
            case Repair.VOID_AT_STRIPE:
                await self._collector.settle(difference.stripe_id, Settlement.VOID)
            case Repair.COLLECT:
                await self._collect(difference, _invoice(difference, way), way)
            case Repair.REFUND_AT_STRIPE:
                await self._refund(difference, way)
            case Repair.KEEP_REFUND:
                await self._keep_refund(difference, way)
            case Repair.CLOSE_AGAIN:
                await self._close_billing_period(
                    organization_id,
                    subscription_id=difference.object_id,
                    period_start=difference.period_start,
                    request_id=f"{difference.difference_id}/{way.request_id}"[: limits.REQUEST_ID_BYTES_MAX],
                    actor=way.actor,
                )
            case Repair.ACCEPT:
                async with self._books.open(organization_id) as book:
                    await book.reconciliation.accept(difference, actor=way.actor)

    async def _follow(self, difference: Difference, way: _Way) -> None:
        theirs = await self._collector.look_up(difference.stripe_id)
        if theirs is not None:
            async with self._books.open(difference.organization_id) as book:
                invoice = await book.invoices.get(difference.object_id)
                await self._follow_payment(book, invoice, theirs, actor=way.actor)

    async def _collect(self, difference: Difference, invoice: Invoice, way: _Way) -> None:
        """Ours is handed over anew. What is there of it gives way first; a crash after any step leaves a difference of
        which the repair goes on.
        """
        organization_id, now = difference.organization_id, self._clock.now()
        async with self._books.open(organization_id) as book:
            if invoice.stripe_invoice_id:
                await book.reconciliation.forget_collected(invoice.invoice_id)
            customer_id, generation = await book.customer.stripe_id(), await book.customer.generation()
        there = [each.invoice for each in way.comparison.theirs.invoices]
        if any(each.stripe_invoice_id == difference.stripe_id for each in there):
            # Disowned first: what Stripe then tells of its voiding is no longer about ours.
            await self._records.disown(difference.stripe_id)
            left = await self._collector.settle(difference.stripe_id, Settlement.VOID)
            if left.status is not StripeInvoiceStatus.VOID:
                raise CollectionRefused(f"{difference.stripe_id} became {left.status.value} meanwhile")
        age = now - (invoice.finalize_time or now)
        attempt_count = _ATTEMPTS_PER_HOUR * (int(age.total_seconds()) // _HOUR_SECONDS) + 1
        if not customer_id:
            since = now - limits.RECONCILE_BACK
            customer_id = await self._customers.ensure(
                organization_id, since=since, attempt_count=attempt_count, generation=generation
            )
            async with self._books.open(organization_id) as book:
                await book.customer.set_stripe_id(customer_id)
        # A number that Stripe has seen is taken for ever, by a void invoice too.
        number = number_there(invoice.number, [each.number for each in there])
        collected = await self._collector.collect(
            replace(invoice, number=number), customer_id, attempt_count=attempt_count
        )
        async with self._books.open(organization_id) as book:
            await book.invoices.set_collected(invoice.invoice_id, collected.stripe_invoice_id)

    async def _refund(self, difference: Difference, way: _Way) -> None:
        """All of an invoice's charges, or what one charge has too much."""
        for charge in way.comparison.theirs.charges:
            amount_minor = 0
            if charge.stripe_charge_id == difference.stripe_id and difference.their_amount is not None:
                amount_minor = difference.their_amount.minor
            elif charge.stripe_invoice_id == difference.stripe_id:
                amount_minor = charge.kept_minor
            if amount_minor <= 0:
                continue
            refund = await self._records.refund(charge.stripe_charge_id, amount_minor)
            if difference.object_id:
                async with self._books.open(difference.organization_id) as book:
                    await book.payments.keep_refund(difference.object_id, refund)

    async def _keep_refund(self, difference: Difference, way: _Way) -> None:
        refunds = [each.refund for charge in way.comparison.theirs.charges for each in charge.refunds]
        async with self._books.open(difference.organization_id) as book:
            for refund in refunds:
                if refund.stripe_refund_id == difference.stripe_id:
                    await book.payments.keep_refund(difference.object_id, refund)
            await settle_purchase(book, difference.object_id, at=self._clock.now(), actor=way.actor)


def _invoice(difference: Difference, way: _Way) -> Invoice:
    (invoice,) = [
        each.invoice for each in way.comparison.ours.invoices if each.invoice.invoice_id == difference.object_id
    ]
    return invoice
