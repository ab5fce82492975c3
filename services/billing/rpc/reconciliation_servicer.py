"""ReconciliationService."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

import grpc

from kit.clock import from_unix_microseconds, unix_microseconds
from kit.errors import LimitExceeded
from kit.grpc.call import OrganizationExists, current_actor, organization_of
from kit.grpc.context import ServicerContext
from services.billing.application.apply_repairs import ApplyRepairs
from services.billing.application.ports.books import Books
from services.billing.application.ports.reconciliation import Found, Report, Reports
from services.billing.application.reconcile_billing import ReconcileBilling
from services.billing.domain import limits
from services.billing.rpc.convert_reconciliation import found_to_pb, kinds_from_pb, report_to_pb
from services.billing.rpc.page_tokens import invalid_token, page_size_of, parts_of, token_of
from tollbook.billing.v1 import reconciliation_pb2, reconciliation_pb2_grpc

_TOKEN_PARTS = 2
_DIGITS_MAX = 18


class ReconciliationServicer(reconciliation_pb2_grpc.ReconciliationServiceServicer):
    """Reconciling, which is the operator's."""

    service_name: ClassVar[str] = "tollbook.billing.v1.ReconciliationService"

    def __init__(
        self,
        *,
        reports: Reports,
        books: Books,
        reconcile_billing: ReconcileBilling,
        apply_repairs: ApplyRepairs,
        exists: OrganizationExists,
    ) -> None:
        self._reports = reports
        self._books = books
        self._reconcile_billing = reconcile_billing
        self._apply_repairs = apply_repairs
        self._exists = exists

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        reconciliation_pb2_grpc.add_ReconciliationServiceServicer_to_server(self, server)

    async def Reconcile(
        self, request: reconciliation_pb2.ReconcileRequest, context: ServicerContext
    ) -> reconciliation_pb2.ReconcileResponse:
        """See the proto."""
        wanted = request.organization_ids
        if len(wanted) > limits.REPAIRS_MAX:
            raise LimitExceeded(what="organization_ids", actual=len(wanted), maximum=limits.REPAIRS_MAX)
        chosen = [await organization_of(each, exists=self._exists) for each in wanted]
        report = await self._reconcile_billing(chosen, actor=current_actor())
        return reconciliation_pb2.ReconcileResponse(report=report_to_pb(report, await self._found(report)))

    async def ListReconciliationReports(
        self, request: reconciliation_pb2.ListReconciliationReportsRequest, context: ServicerContext
    ) -> reconciliation_pb2.ListReconciliationReportsResponse:
        """See the proto."""
        count = page_size_of(request.page_size, default=limits.PAGE_REPORTS, maximum=limits.PAGE_REPORTS_MAX)
        found = await self._reports.newest_first(before=_place_of(request.page_token), count=count + 1)
        last = found[count - 1] if len(found) > count else None
        token = token_of(str(unix_microseconds(last.begin_time)), last.report_id) if last else ""
        return reconciliation_pb2.ListReconciliationReportsResponse(
            reports=map(report_to_pb, found[:count]), next_page_token=token
        )

    async def GetReconciliationReport(
        self, request: reconciliation_pb2.GetReconciliationReportRequest, context: ServicerContext
    ) -> reconciliation_pb2.GetReconciliationReportResponse:
        """See the proto."""
        report = await self._reports.get(request.report_id)
        return reconciliation_pb2.GetReconciliationReportResponse(
            report=report_to_pb(report, await self._found(report))
        )

    async def ApplyRepairs(
        self, request: reconciliation_pb2.ApplyRepairsRequest, context: ServicerContext
    ) -> reconciliation_pb2.ApplyRepairsResponse:
        """See the proto."""
        found = await self._apply_repairs(
            request.report_id,
            difference_ids=list(request.difference_ids),
            kinds=kinds_from_pb(request.kinds),
            request_id=request.request_id,
            actor=current_actor(),
        )
        return reconciliation_pb2.ApplyRepairsResponse(differences=map(found_to_pb, found))

    async def _found(self, report: Report) -> list[Found]:
        every: list[Found] = []
        for organization_id in report.organization_ids:
            async with self._books.read(organization_id) as book:
                every += await book.reconciliation.of_report(report.report_id)
        return every


def _place_of(token: str) -> tuple[datetime, str] | None:
    parts = parts_of(token, _TOKEN_PARTS)
    if parts is None:
        return None
    digits, report_id = parts
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX):
        raise invalid_token()
    return from_unix_microseconds(int(digits)), report_id
