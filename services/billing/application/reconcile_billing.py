"""Reconcile billing: every organization's record is compared with Stripe's and with the ledger, and a report is kept.

Nothing is repaired here: see apply_repairs.py.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog

from kit.clock import Clock, unix_microseconds
from kit.errors import Refused
from kit.ids import new_id
from services.billing.application.compare_organization import CompareOrganization
from services.billing.application.metrics import DRIFT, RECONCILED_TIME
from services.billing.application.ports.books import Books
from services.billing.application.ports.reconciliation import Found, RecordsAtStripe, Report, Reports
from services.billing.domain import limits
from services.billing.domain.errors import CollectionRefused

log = structlog.get_logger()


class ReconcileBilling:
    """Compares, and keeps what differs."""

    def __init__(
        self, reports: Reports, books: Books, records: RecordsAtStripe, compare: CompareOrganization, clock: Clock
    ) -> None:
        self._reports = reports
        self._books = books
        self._records = records
        self._compare = compare
        self._clock = clock

    async def __call__(self, organization_ids: Collection[str] = (), *, actor: str) -> Report:
        """The report, kept. organization_ids: whom to compare; empty: everybody, whom Stripe alone knows too. An
        organization that cannot be compared is named in the report and holds up no other. Raises DependencyUnavailable
        when nobody can be.
        """
        begin_time, report_id = self._clock.now(), new_id("rec")
        customers = await self._records.customers(since=begin_time - limits.RECONCILE_BACK)
        chosen = sorted(organization_ids or {*await self._reports.organizations(), *customers})
        failed: dict[str, str] = {}
        differing: dict[str, Sequence[Found]] = {}
        for organization_id in chosen:
            try:
                found = await self._one(organization_id, customers.get(organization_id, frozenset()), report_id)
            except (Refused, CollectionRefused) as error:
                log.warning("reconciliation_failed", organization_id=organization_id, error=str(error))
                failed[organization_id] = str(error)[: limits.ERROR_TEXT_MAX]
                continue
            if found:
                differing[organization_id] = found
        every = [each for found in differing.values() for each in found]
        pending_count = sum(each.is_pending for each in every)
        report = Report(
            report_id=report_id,
            actor=actor,
            begin_time=begin_time,
            end_time=self._clock.now(),
            organization_count=len(chosen) - len(failed),
            difference_count=len(every) - pending_count,
            pending_count=pending_count,
            failed=failed,
            organization_ids=tuple(differing),
        )
        await self._reports.add(report)
        _tell(report, every)
        return report

    async def _one(self, organization_id: str, customers: Collection[str], report_id: str) -> Sequence[Found]:
        comparison = await self._compare(organization_id, customers)
        now = self._clock.now()
        found = [Found(difference=each, is_pending=each.is_pending(now)) for each in comparison.differences]
        if found:
            async with self._books.open(organization_id) as book:
                await book.reconciliation.keep(report_id, found)
        return found


def _tell(report: Report, found: Sequence[Found]) -> None:
    for each in found:
        if each.is_pending:
            continue
        difference = each.difference
        DRIFT.labels(difference.kind.value).inc()
        log.error(
            "billing_drift",
            report_id=report.report_id,
            kind=difference.kind.value,
            organization_id=difference.organization_id,
            object_id=difference.object_id,
            stripe_id=difference.stripe_id,
            repair=difference.repair.value,
        )
    RECONCILED_TIME.set(unix_microseconds(report.end_time) // 1_000_000)
    log.info(
        "billing_reconciled",
        report_id=report.report_id,
        organizations=report.organization_count,
        differences=report.difference_count,
        pending=report.pending_count,
        failed=len(report.failed),
    )
