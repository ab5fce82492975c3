"""AnalyticsService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.grpc.call import OrganizationExists, organization_of
from kit.grpc.context import ServicerContext
from services.analytics.application.summarize_costs import SummarizeCosts
from services.analytics.rpc.convert import summary_to_pb
from tollbook.analytics.v1 import analytics_pb2, analytics_pb2_grpc


class AnalyticsServicer(analytics_pb2_grpc.AnalyticsServiceServicer):
    """Answers what customers ask about their cost."""

    service_name: ClassVar[str] = "tollbook.analytics.v1.AnalyticsService"

    def __init__(self, *, summarize_costs: SummarizeCosts, exists: OrganizationExists) -> None:
        self._summarize_costs = summarize_costs
        self._exists = exists

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        analytics_pb2_grpc.add_AnalyticsServiceServicer_to_server(self, server)

    async def GetCostSummary(
        self, request: analytics_pb2.GetCostSummaryRequest, context: ServicerContext
    ) -> analytics_pb2.GetCostSummaryResponse:
        """See the proto."""
        summary = await self._summarize_costs(
            await organization_of(request.organization_id, exists=self._exists),
            start_date=request.start_date,
            end_date=request.end_date,
        )
        return summary_to_pb(summary)
