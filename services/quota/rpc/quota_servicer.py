"""QuotaService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.grpc.call import OrganizationExists, organization_of
from kit.grpc.context import ServicerContext
from services.quota.application.check_quota import CheckQuota
from services.quota.application.list_quotas import ListQuotas
from services.quota.rpc.convert import answer_to_pb, check_from_pb, denial_metadata, quotas_to_pb
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc


class QuotaServicer(quota_pb2_grpc.QuotaServiceServicer):
    """Decides and lists."""

    service_name: ClassVar[str] = "tollbook.quota.v1.QuotaService"

    def __init__(self, *, check_quota: CheckQuota, list_quotas: ListQuotas, exists: OrganizationExists) -> None:
        self._check_quota = check_quota
        self._list_quotas = list_quotas
        self._exists = exists

    def add_to(self, server: grpc.aio.Server) -> None:
        """As kit.grpc.server.Servicer."""
        quota_pb2_grpc.add_QuotaServiceServicer_to_server(self, server)

    async def Check(self, request: quota_pb2.CheckRequest, context: ServicerContext) -> quota_pb2.CheckResponse:
        """See the proto. A denial for too much also says so in the initial metadata, for the REST edge."""
        organization_id = await organization_of(request.subject.organization_id, exists=self._exists)
        answer = await self._check_quota(check_from_pb(request, organization_id))
        metadata = denial_metadata(answer)
        if metadata:
            await context.send_initial_metadata(metadata)
        return answer_to_pb(answer)

    async def ListQuotas(
        self, request: quota_pb2.ListQuotasRequest, context: ServicerContext
    ) -> quota_pb2.ListQuotasResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        return quotas_to_pb(await self._list_quotas(organization_id))
