"""QuotaService."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.grpc.call import OrganizationExists, organization_of
from kit.grpc.context import ServicerContext
from services.quota.application.check_quota import CheckQuota
from services.quota.application.delete_limit import DeleteLimit
from services.quota.application.list_limits import ListLimits
from services.quota.application.list_quotas import ListQuotas
from services.quota.application.set_limit import SetLimit
from services.quota.rpc.convert import answer_to_pb, check_from_pb, denial_metadata, quotas_to_pb
from services.quota.rpc.convert_limits import (
    after_from_token,
    change_request_from_pb,
    limit_from_pb,
    limit_to_pb,
    page_to_pb,
)
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc


class QuotaServicer(quota_pb2_grpc.QuotaServiceServicer):
    """Decides and lists."""

    service_name: ClassVar[str] = "tollbook.quota.v1.QuotaService"

    def __init__(
        self,
        *,
        check_quota: CheckQuota,
        list_quotas: ListQuotas,
        set_limit: SetLimit,
        list_limits: ListLimits,
        delete_limit: DeleteLimit,
        exists: OrganizationExists,
    ) -> None:
        self._check_quota = check_quota
        self._list_quotas = list_quotas
        self._set_limit = set_limit
        self._list_limits = list_limits
        self._delete_limit = delete_limit
        self._exists = exists

    def add_to(self, server: grpc.aio.Server) -> None:
        """As kit.grpc.server.Servicer."""
        quota_pb2_grpc.add_QuotaServiceServicer_to_server(self, server)

    async def Check(self, request: quota_pb2.CheckRequest, context: ServicerContext) -> quota_pb2.CheckResponse:
        """See the proto. A denial for too much also says so in the trailing metadata, for the REST edge."""
        organization_id = await organization_of(request.subject.organization_id, exists=self._exists)
        answer = await self._check_quota(check_from_pb(request, organization_id))
        metadata = denial_metadata(answer)
        if metadata:
            # Trailing, because metadata ahead of the answer would be a message of its own.
            context.set_trailing_metadata((*(context.trailing_metadata() or ()), *metadata))
        return answer_to_pb(answer)

    async def ListQuotas(
        self, request: quota_pb2.ListQuotasRequest, context: ServicerContext
    ) -> quota_pb2.ListQuotasResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        return quotas_to_pb(await self._list_quotas(organization_id))

    async def SetLimit(
        self, request: quota_pb2.SetLimitRequest, context: ServicerContext
    ) -> quota_pb2.SetLimitResponse:
        """See the proto."""
        organization_id = await organization_of(request.limit.organization_id, exists=self._exists)
        change = change_request_from_pb(request.request_id, request)
        limit = await self._set_limit(organization_id, limit_from_pb(request.limit), change)
        return quota_pb2.SetLimitResponse(limit=limit_to_pb(limit, organization_id))

    async def ListLimits(
        self, request: quota_pb2.ListLimitsRequest, context: ServicerContext
    ) -> quota_pb2.ListLimitsResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        after = after_from_token(request.page_token)
        return page_to_pb(
            await self._list_limits(organization_id, after=after, size=request.page_size), organization_id
        )

    async def DeleteLimit(
        self, request: quota_pb2.DeleteLimitRequest, context: ServicerContext
    ) -> quota_pb2.DeleteLimitResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        change = change_request_from_pb(request.request_id, request)
        await self._delete_limit(organization_id, request.limit_id, change)
        return quota_pb2.DeleteLimitResponse()
