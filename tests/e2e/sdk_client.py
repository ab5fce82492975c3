"""What the tests of the SDK need of the running suite."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from tests.e2e.running_suite import RunningSuite, Tenant, call
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc
from tollbook_sdk import Settings

PATIENCE = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True)
class Where:
    """What a client needs to know."""

    quota: str
    metering: str
    key: str

    def settings(self, **changed: Any) -> Settings:
        """With a budget that a machine busy with everything else does not break."""
        return Settings(**{**asdict(self), "check_budget_seconds": PATIENCE.total_seconds(), **changed})


def where(suite: RunningSuite, tenant: Tenant) -> Where:
    """The suite, as this tenant."""
    endpoints = suite.endpoints()
    return Where(quota=endpoints["quota"], metering=endpoints["metering"], key=tenant.key)


def limits_of(suite: RunningSuite, tenant: Tenant) -> dict[str, quota_pb2.LimitState]:
    """The limits as they are now, by meter."""
    stub = quota_pb2_grpc.QuotaServiceStub(suite.channel("quota"))
    answer = call(stub.ListQuotas, quota_pb2.ListQuotasRequest(), key=tenant.key)
    return {each.meter: each for each in answer.limits}


def set_limit(suite: RunningSuite, tenant: Tenant, meter: str, value: int) -> None:
    """Puts a hard limit on a meter, of the organization's own."""
    stub = quota_pb2_grpc.QuotaServiceStub(suite.channel("quota"))
    limit = quota_pb2.Limit(meter=meter, kind=quota_pb2.LIMIT_KIND_PERIOD, value=value, grace_percent=0)
    call(stub.SetLimit, quota_pb2.SetLimitRequest(request_id=f"{meter}-{value}", limit=limit), key=tenant.key)
