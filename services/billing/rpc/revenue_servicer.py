"""RevenueService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.grpc.context import ServicerContext
from kit.grpc.convert import moment_from_pb
from services.billing.application.report_revenue import ReportRevenue
from services.billing.rpc.convert_revenue import revenue_report_to_pb
from tollbook.billing.v1 import revenue_pb2, revenue_pb2_grpc


class RevenueServicer(revenue_pb2_grpc.RevenueServiceServicer):
    """Reports on all organizations together."""

    service_name: ClassVar[str] = "tollbook.billing.v1.RevenueService"

    def __init__(self, *, report_revenue: ReportRevenue) -> None:
        self._report_revenue = report_revenue

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        revenue_pb2_grpc.add_RevenueServiceServicer_to_server(self, server)

    async def GetRevenueReport(
        self, request: revenue_pb2.GetRevenueReportRequest, context: ServicerContext
    ) -> revenue_pb2.GetRevenueReportResponse:
        """See the proto."""
        as_of = moment_from_pb(request.as_of_time, "as_of_time") if request.HasField("as_of_time") else None
        report = await self._report_revenue(as_of)
        return revenue_pb2.GetRevenueReportResponse(report=revenue_report_to_pb(report))
