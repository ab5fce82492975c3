from __future__ import annotations

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.e2e.running_suite import SERVICES, RunningSuite

_OWN_SERVICES = {
    "metering": {
        "tollbook.metering.v1.CloudEventsService",
        "tollbook.metering.v1.LedgerService",
        "tollbook.metering.v1.MeteringService",
        "tollbook.metering.v1.TaskTimeService",
    },
    "quota": {
        "envoy.service.ratelimit.v3.RateLimitService",
        "tollbook.quota.v1.QuotaService",
        "tollbook.quota.v1.QuotaUpkeepService",
    },
    "billing": {
        "tollbook.billing.v1.BillingProfileService",
        "tollbook.billing.v1.BillingService",
        "tollbook.billing.v1.CatalogService",
        "tollbook.billing.v1.CouponService",
        "tollbook.billing.v1.CreditNoteService",
        "tollbook.billing.v1.CreditService",
        "tollbook.billing.v1.EntitlementFeedService",
        "tollbook.billing.v1.LegalEntityService",
        "tollbook.billing.v1.PaymentService",
        "tollbook.billing.v1.ReconciliationService",
        "tollbook.billing.v1.RevenueService",
        "tollbook.billing.v1.StripeWebhookService",
    },
    "analytics": {"tollbook.analytics.v1.AnalyticsService", "tollbook.analytics.v1.PriceService"},
    "accounts": {"tollbook.accounts.v1.AccountsService", "tollbook.accounts.v1.IdentityFeedService"},
}
_VERSIONS = ("v1alpha", "v1")


def _ask(
    channel: grpc.Channel, version: str, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    # The two versions have the same messages under another package.
    method = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    answer: reflection_pb2.ServerReflectionResponse = next(iter(method(iter([request]), timeout=10)))
    return answer


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("service", SERVICES)
def test_every_server_lists_its_services_without_a_key(suite: RunningSuite, service: str, version: str) -> None:
    answer = _ask(
        suite.channel(service), version, reflection_pb2.ServerReflectionRequest(list_services="")
    ).list_services_response
    listed = {entry.name for entry in answer.service}
    assert {name for name in listed if name.startswith(("tollbook.", "envoy."))} == _OWN_SERVICES[service]
    assert "grpc.health.v1.Health" in listed


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("service", SERVICES)
def test_every_server_describes_its_methods(suite: RunningSuite, service: str, version: str) -> None:
    for name in _OWN_SERVICES[service]:
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
        answer = _ask(suite.channel(service), version, request).file_descriptor_response
        files = [FileDescriptorProto.FromString(encoded) for encoded in answer.file_descriptor_proto]
        described = {f"{file.package}.{entry.name}": entry for file in files for entry in file.service}
        assert described[name].method, f"{name} has no methods"


@pytest.mark.parametrize("service", SERVICES)
def test_every_server_says_that_it_is_serving(suite: RunningSuite, service: str) -> None:
    check = suite.channel(service).unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    for name in ("", *_OWN_SERVICES[service]):
        answer = check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
