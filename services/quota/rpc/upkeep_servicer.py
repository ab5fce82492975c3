"""QuotaUpkeepService: the audit, for the operator."""

from __future__ import annotations

from typing import ClassVar

import grpc

from kit.grpc.call import OrganizationExists, organization_of
from kit.grpc.context import ServicerContext
from services.quota.application.audit_counters import Audit, AuditCounters
from services.quota.domain.audit import Drift
from services.quota.rpc.convert_limits import SCOPE_KINDS
from tollbook.quota.v1 import quota_pb2, upkeep_pb2, upkeep_pb2_grpc


class UpkeepServicer(upkeep_pb2_grpc.QuotaUpkeepServiceServicer):
    """Audits when asked."""

    service_name: ClassVar[str] = "tollbook.quota.v1.QuotaUpkeepService"

    def __init__(self, *, audit: AuditCounters, exists: OrganizationExists) -> None:
        self._audit = audit
        self._exists = exists

    def add_to(self, server: grpc.aio.Server) -> None:
        """As kit.grpc.server.Servicer."""
        upkeep_pb2_grpc.add_QuotaUpkeepServiceServicer_to_server(self, server)

    async def AuditQuotas(
        self, request: upkeep_pb2.AuditQuotasRequest, context: ServicerContext
    ) -> upkeep_pb2.AuditQuotasResponse:
        """See the proto."""
        organization_id = await organization_of(request.organization_id, exists=self._exists)
        return _audit_to_pb(await self._audit(organization_id, repair=request.repair))


def _audit_to_pb(audit: Audit) -> upkeep_pb2.AuditQuotasResponse:
    return upkeep_pb2.AuditQuotasResponse(
        drifts=[_drift_to_pb(drift) for drift in audit.drifts],
        missing=audit.is_missing,
        conclusive=audit.is_conclusive,
        repaired=audit.is_repaired,
    )


def _drift_to_pb(drift: Drift) -> upkeep_pb2.QuotaDrift:
    scope = drift.counter.scope
    return upkeep_pb2.QuotaDrift(
        part=drift.part.value,
        scope=quota_pb2.LimitScope(kind=SCOPE_KINDS[scope.kind], id=scope.id or None),
        meter=drift.counter.meter,
        kept_quantity=drift.kept,
        expected_quantity=drift.expected,
    )
