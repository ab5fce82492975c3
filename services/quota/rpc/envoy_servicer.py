"""Envoy's RateLimitService, answered from the same limits as everything else.

What cannot be decided is a gRPC status, upon which Envoy's own `failure_mode_deny` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import grpc

from envoyproxy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc
from kit.grpc.call import OrganizationExists, organization_of
from kit.grpc.context import ServicerContext
from services.quota.application.check_all import CheckAll
from services.quota.application.check_quota import CheckQuota
from services.quota.application.metrics import FOREIGN_DESCRIPTORS
from services.quota.application.ports import Answer
from services.quota.domain.checks import Check
from services.quota.rpc.convert_envoy import (
    checks_from_pb,
    is_ours,
    organization_named,
    require_bounded,
    response_to_pb,
)
from tollbook.access.v1 import access_pb2

RATE_LIMIT_SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
FOREIGN_SCOPES = {RATE_LIMIT_SERVICE: access_pb2.SCOPE_QUOTA_CHECK}
"""What a key needs: this proto is not ours, and declares no access."""


class RateLimitServicer(rls_pb2_grpc.RateLimitServiceServicer):
    """Limits requests."""

    service_name: ClassVar[str] = RATE_LIMIT_SERVICE

    def __init__(self, *, check_quota: CheckQuota, check_all: CheckAll, exists: OrganizationExists) -> None:
        self._check_quota = check_quota
        self._check_all = check_all
        self._exists = exists

    def add_to(self, server: grpc.aio.Server) -> None:
        """As kit.grpc.server.Servicer."""
        rls_pb2_grpc.add_RateLimitServiceServicer_to_server(self, server)

    async def ShouldRateLimit(
        self, request: rls_pb2.RateLimitRequest, context: ServicerContext
    ) -> rls_pb2.RateLimitResponse:
        """Consumes what each descriptor asks for, all or nothing: a request over limit consumes nothing."""
        require_bounded(request)
        FOREIGN_DESCRIPTORS.inc(sum(not is_ours(descriptor) for descriptor in request.descriptors))
        if not any(is_ours(descriptor) for descriptor in request.descriptors):
            return response_to_pb(request, ())
        organization_id = await organization_of(organization_named(request), exists=self._exists)
        checks = checks_from_pb(request, organization_id)
        return response_to_pb(request, await self._answers(organization_id, checks))

    async def _answers(self, organization_id: str, checks: Sequence[Check]) -> Sequence[Answer]:
        if len(checks) == 1:
            # As any other check: it may share its way to the store with others.
            return [await self._check_quota(checks[0])]
        return await self._check_all(organization_id, checks)
