from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from kit.errors import CredentialMissing, ScopeMissing
from kit.grpc.access import AccessRule, AccessUndeclared, access_rules
from kit.grpc.call import NOBODY, CallerKind, Principal
from tollbook.access.v1 import access_pb2
from tollbook.accounts.v1 import accounts_pb2, identity_pb2
from tollbook.analytics.v1 import analytics_pb2, prices_pb2
from tollbook.billing.v1 import billing_pb2, catalog_pb2, entitlements_pb2, revenue_pb2, stripe_webhook_pb2
from tollbook.metering.v1 import cloudevents_pb2, ledger_pb2, metering_pb2, task_time_pb2
from tollbook.quota.v1 import quota_pb2

FILES = [
    accounts_pb2,
    identity_pb2,
    analytics_pb2,
    prices_pb2,
    billing_pb2,
    catalog_pb2,
    entitlements_pb2,
    revenue_pb2,
    stripe_webhook_pb2,
    cloudevents_pb2,
    ledger_pb2,
    metering_pb2,
    task_time_pb2,
    quota_pb2,
]
SERVICES = [service.full_name for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]

ADMIN = Principal(CallerKind.ADMIN, "admin")
QUOTA = Principal(CallerKind.SERVICE, "quota")


def tenant(*scopes: int) -> Principal:
    return Principal(CallerKind.TENANT, "key", "acme", frozenset(scopes))


def test_every_method_of_every_service_declares_its_access() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods
    assert set(access_rules(SERVICES)) == methods


def test_only_the_signed_webhook_is_public_among_our_own_methods() -> None:
    public = [rule.method for rule in access_rules(SERVICES).values() if rule.is_public]
    assert public == ["/tollbook.billing.v1.StripeWebhookService/HandleStripeEvent"]


def test_a_method_that_declares_nothing_stops_the_server() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="undeclared.proto", package="undeclared")
    file.message_type.add(name="Empty")
    file.service.add(name="Open").method.add(
        name="Door", input_type=".undeclared.Empty", output_type=".undeclared.Empty"
    )
    descriptor_pool.Default().Add(file)
    with pytest.raises(AccessUndeclared, match="Door"):
        access_rules(["undeclared.Open"])


TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"


def test_a_service_of_another_projects_proto_stops_the_server_unless_the_application_says_its_scope() -> None:
    assert trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name == TRACES
    with pytest.raises(AccessUndeclared, match="TraceService/Export"):
        access_rules([TRACES])
    rules = access_rules([TRACES], foreign={TRACES: access_pb2.SCOPE_USAGE_WRITE})
    assert rules == {f"/{TRACES}/Export": AccessRule(f"/{TRACES}/Export", access_pb2.SCOPE_USAGE_WRITE, frozenset())}


def test_what_a_proto_declares_cannot_be_opened_by_the_application() -> None:
    name = "tollbook.metering.v1.LedgerService"
    rules = access_rules([name], foreign={name: access_pb2.SCOPE_PUBLIC})
    assert {rule.scope for rule in rules.values()} == {access_pb2.SCOPE_INTERNAL}


def rule(scope: int, *services: str) -> AccessRule:
    return AccessRule("/x/Y", scope, frozenset(services))


def test_without_a_credential_only_public_methods_answer() -> None:
    rule(access_pb2.SCOPE_PUBLIC).admit(NOBODY)
    with pytest.raises(CredentialMissing):
        rule(access_pb2.SCOPE_USAGE_READ).admit(NOBODY)


def test_a_tenant_needs_the_very_scope() -> None:
    rule(access_pb2.SCOPE_USAGE_READ).admit(tenant(access_pb2.SCOPE_USAGE_READ))
    with pytest.raises(ScopeMissing):
        rule(access_pb2.SCOPE_USAGE_READ).admit(tenant(access_pb2.SCOPE_USAGE_WRITE))


@pytest.mark.parametrize("scope", [access_pb2.SCOPE_OPERATOR, access_pb2.SCOPE_INTERNAL])
def test_no_tenant_is_an_operator_or_a_service_whatever_its_key_says(scope: int) -> None:
    with pytest.raises(ScopeMissing):
        rule(scope, "quota").admit(tenant(scope))


def test_the_admin_does_everything_but_internal_calls() -> None:
    rule(access_pb2.SCOPE_OPERATOR).admit(ADMIN)
    rule(access_pb2.SCOPE_USAGE_WRITE).admit(ADMIN)
    with pytest.raises(ScopeMissing):
        rule(access_pb2.SCOPE_INTERNAL, "quota").admit(ADMIN)


def test_a_service_calls_only_the_methods_that_list_it() -> None:
    rule(access_pb2.SCOPE_INTERNAL, "quota").admit(QUOTA)
    for scope in (access_pb2.SCOPE_INTERNAL, access_pb2.SCOPE_OPERATOR, access_pb2.SCOPE_USAGE_READ):
        with pytest.raises(ScopeMissing):
            rule(scope, "billing").admit(QUOTA)
