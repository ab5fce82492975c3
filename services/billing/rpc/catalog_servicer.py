"""CatalogService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.errors import NotFound
from kit.grpc.call import current_actor
from kit.grpc.context import ServicerContext
from services.billing.application.apply_catalog import ApplyCatalog
from services.billing.application.diff_catalog import DiffCatalog
from services.billing.application.ports.catalog import Plans
from services.billing.rpc.convert_catalog import plan_diff_to_pb, plan_text_from_pb, plan_to_pb
from tollbook.billing.v1 import catalog_pb2, catalog_pb2_grpc


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """Shows and changes what is sold."""

    service_name: ClassVar[str] = "tollbook.billing.v1.CatalogService"

    def __init__(self, *, plans: Plans, diff_catalog: DiffCatalog, apply_catalog: ApplyCatalog) -> None:
        self._plans = plans
        self._diff_catalog = diff_catalog
        self._apply_catalog = apply_catalog

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(self, server)

    async def ListPlans(
        self, request: catalog_pb2.ListPlansRequest, context: ServicerContext
    ) -> catalog_pb2.ListPlansResponse:
        """See the proto."""
        return catalog_pb2.ListPlansResponse(plans=[plan_to_pb(plan) for plan in await self._plans.sold()])

    async def GetPlan(
        self, request: catalog_pb2.GetPlanRequest, context: ServicerContext
    ) -> catalog_pb2.GetPlanResponse:
        """See the proto."""
        entry = await self._plans.newest(request.plan_id)
        if entry is None:
            raise NotFound(what="plan", name=request.plan_id[:64])
        return catalog_pb2.GetPlanResponse(plan=plan_to_pb(entry.plan))

    async def DiffCatalog(
        self, request: catalog_pb2.DiffCatalogRequest, context: ServicerContext
    ) -> catalog_pb2.DiffCatalogResponse:
        """See the proto."""
        diffs = await self._diff_catalog([plan_text_from_pb(plan) for plan in request.plans])
        return catalog_pb2.DiffCatalogResponse(diffs=[plan_diff_to_pb(diff) for diff in diffs])

    async def ApplyCatalog(
        self, request: catalog_pb2.ApplyCatalogRequest, context: ServicerContext
    ) -> catalog_pb2.ApplyCatalogResponse:
        """See the proto."""
        texts = [plan_text_from_pb(plan) for plan in request.plans]
        change = await self._apply_catalog(texts, request_id=request.request_id, actor=current_actor())
        return catalog_pb2.ApplyCatalogResponse(
            plans=[plan_to_pb(plan) for plan in change.sold],
            changed_plan_ids=[plan.plan_id for plan in change.changed],
            withdrawn_plan_ids=change.withdrawn,
        )
