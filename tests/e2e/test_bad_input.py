from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from kit.testing.stores import free_port_block
from tests.e2e.running_suite import CHECKOUT, PORTS, RunningSuite, Tenant, call, refusal_of, tollbook
from tollbook.billing.v1 import catalog_pb2, catalog_pb2_grpc
from tollbook.errors.v1 import errors_pb2
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

_PLANS = CHECKOUT / "tests" / "fixtures" / "plans"
_WRONG_KEY = "tb_live_" + "x" * 43


def _metering(suite: RunningSuite) -> metering_pb2_grpc.MeteringServiceStub:
    return metering_pb2_grpc.MeteringServiceStub(suite.channel("metering"))


def _quota(suite: RunningSuite) -> quota_pb2_grpc.QuotaServiceStub:
    return quota_pb2_grpc.QuotaServiceStub(suite.channel("quota"))


def _event(
    *, organization_id: str = "", meter: str = "agent_minutes", quantity: int = 60_000
) -> metering_pb2.UsageEvent:
    now = Timestamp()
    now.GetCurrentTime()
    return metering_pb2.UsageEvent(
        id=f"{meter}-{quantity}",
        source="e2e",
        subject=metering_pb2.Subject(organization_id=organization_id),
        event_time=now,
        measurements=[metering_pb2.Measurement(meter=meter, quantity=quantity)],
    )


def _record(*events: metering_pb2.UsageEvent) -> metering_pb2.RecordUsageRequest:
    return metering_pb2.RecordUsageRequest(events=events)


def _reserve(
    *, organization_id: str = "", meter: str = "agent_minutes", quantity: int = 60_000
) -> quota_pb2.CheckRequest:
    return quota_pb2.CheckRequest(
        request_id="e2e-bad-input",
        subject=metering_pb2.Subject(organization_id=organization_id),
        consumptions=[quota_pb2.Consumption(meter=meter, quantity=quantity)],
        mode=quota_pb2.CHECK_MODE_RESERVE,
    )


@contextmanager
def _nothing_changes(suite: RunningSuite, *tenants: Tenant) -> Iterator[None]:
    """The ledger and the counters of the tenants are afterwards what they were before."""

    def state() -> list[object]:
        found: list[object] = []
        for tenant in tenants:
            usage = suite.recorded(tenant)
            quotas = call(_quota(suite).ListQuotas, quota_pb2.ListQuotasRequest(), key=tenant.key)
            found.append((list(usage.rows), usage.as_of_sequence))
            found.append([(limit.limit_id, limit.used, limit.held) for limit in quotas.limits])
        return found

    before = state()
    yield
    assert state() == before


@pytest.mark.parametrize(
    ("key", "reason"),
    [(None, "CREDENTIAL_MISSING"), (_WRONG_KEY, "CREDENTIAL_INVALID"), ("", "CREDENTIAL_MISSING")],
    ids=["missing", "wrong", "empty"],
)
def test_missing_or_wrong_key_is_unauthenticated(
    suite: RunningSuite, tenant: Tenant, key: str | None, reason: str
) -> None:
    organization_id = tenant.organization_id
    with _nothing_changes(suite, tenant):
        recorded = refusal_of(_metering(suite).RecordUsage, _record(_event(organization_id=organization_id)), key=key)
        checked = refusal_of(_quota(suite).Check, _reserve(organization_id=organization_id), key=key)
    assert recorded == checked == ("UNAUTHENTICATED", reason)


def test_another_tenants_id_is_denied(suite: RunningSuite, tenant: Tenant) -> None:
    other = suite.new_tenant()
    with _nothing_changes(suite, tenant, other):
        recorded = refusal_of(
            _metering(suite).RecordUsage, _record(_event(organization_id=other.organization_id)), key=tenant.key
        )
        checked = refusal_of(_quota(suite).Check, _reserve(organization_id=other.organization_id), key=tenant.key)
        queried = refusal_of(
            _metering(suite).QueryUsage,
            metering_pb2.QueryUsageRequest(organization_id=other.organization_id),
            key=tenant.key,
        )
    assert recorded == checked == queried == ("PERMISSION_DENIED", "ORGANIZATION_MISMATCH")


def test_operators_method_is_denied_to_a_tenant(suite: RunningSuite, tenant: Tenant) -> None:
    catalog = catalog_pb2_grpc.CatalogServiceStub(suite.channel("billing"))
    request = catalog_pb2.ApplyCatalogRequest(request_id="e2e-tenant")
    assert refusal_of(catalog.ApplyCatalog, request, key=tenant.key) == ("PERMISSION_DENIED", "SCOPE_MISSING")


def test_admin_must_name_the_organization(suite: RunningSuite) -> None:
    refused = refusal_of(_metering(suite).QueryUsage, metering_pb2.QueryUsageRequest(), key=suite.admin_key)
    assert refused == ("INVALID_ARGUMENT", "ORGANIZATION_REQUIRED")


def test_admin_must_name_an_organization_that_exists(suite: RunningSuite) -> None:
    request = _record(_event(organization_id="nobody-at-all"))
    refused = refusal_of(_metering(suite).RecordUsage, request, key=suite.admin_key)
    assert refused == ("NOT_FOUND", "ORGANIZATION_NOT_FOUND")


@pytest.mark.parametrize(
    ("meter", "quantity", "reason"),
    [
        ("agent_hours", 1, "UNKNOWN_METER"),
        ("agent_minutes", -1, "INVALID_QUANTITY"),
        ("agent_minutes", 2**53, "INVALID_QUANTITY"),
    ],
    ids=["unknown-meter", "negative-quantity", "quantity-beyond-2-to-the-53"],
)
def test_check_of_what_cannot_be_used_is_an_invalid_argument(
    suite: RunningSuite, tenant: Tenant, meter: str, quantity: int, reason: str
) -> None:
    with _nothing_changes(suite, tenant):
        refused = refusal_of(_quota(suite).Check, _reserve(meter=meter, quantity=quantity), key=tenant.key)
    assert refused == ("INVALID_ARGUMENT", reason)


@pytest.mark.parametrize(
    ("meter", "quantity", "reason"),
    [
        ("agent_hours", 1, errors_pb2.ERROR_REASON_UNKNOWN_METER),
        ("agent_minutes", -1, errors_pb2.ERROR_REASON_INVALID_QUANTITY),
        ("agent_minutes", 2**53, errors_pb2.ERROR_REASON_INVALID_QUANTITY),
    ],
    ids=["unknown-meter", "negative-quantity", "quantity-beyond-2-to-the-53"],
)
def test_bad_event_is_refused_alone_and_the_rest_of_its_batch_stands(
    suite: RunningSuite, tenant: Tenant, meter: str, quantity: int, reason: errors_pb2.ErrorReason.ValueType
) -> None:
    batch = _record(_event(quantity=1), _event(meter=meter, quantity=quantity), _event(quantity=2))
    answer = call(_metering(suite).RecordUsage, batch, key=tenant.key)
    assert [(result.status, result.reason) for result in answer.results] == [
        (metering_pb2.EVENT_STATUS_ACCEPTED, errors_pb2.ERROR_REASON_UNSPECIFIED),
        (metering_pb2.EVENT_STATUS_REJECTED, reason),
        (metering_pb2.EVENT_STATUS_ACCEPTED, errors_pb2.ERROR_REASON_UNSPECIFIED),
    ]
    assert answer.results[1].message
    recorded = suite.recorded(tenant)
    assert [(row.meter, row.quantity) for row in recorded.rows] == [("agent_minutes", 3)]
    assert recorded.as_of_sequence == 2


def test_same_event_with_other_content_is_a_conflict_and_changes_nothing(suite: RunningSuite, tenant: Tenant) -> None:
    event = _event()
    call(_metering(suite).RecordUsage, _record(event), key=tenant.key)
    changed = metering_pb2.UsageEvent()
    changed.CopyFrom(event)
    changed.measurements[0].quantity = 1
    answer = call(_metering(suite).RecordUsage, _record(changed, event), key=tenant.key)
    assert [result.status for result in answer.results] == [
        metering_pb2.EVENT_STATUS_CONFLICT,
        metering_pb2.EVENT_STATUS_DUPLICATE,
    ]
    assert [row.quantity for row in suite.recorded(tenant).rows] == [60_000]


def test_malformed_trace_line_is_named_before_anything_is_sent(suite: RunningSuite, tmp_path: Path) -> None:
    trace = tmp_path / "bad.csv"
    good = "2026-02-28 23:59:59.0000000,10,10"
    trace.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{good}\n{good[:-3]},-10\n{good}\n", encoding="ascii")
    before = suite.organization_ids()
    done = tollbook("replay", "--trace", trace, "--state", suite.state_dir, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{trace}: line 3: GeneratedTokens '-10' is negative" in done.stderr
    assert suite.organization_ids() == before


def test_replay_without_a_suite_says_how_to_start_one(tmp_path: Path) -> None:
    trace = CHECKOUT / "deploy" / "sample_trace.csv"
    done = tollbook("replay", "--trace", trace, "--state", tmp_path, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"no suite is up in {tmp_path}" in done.stderr
    assert f"tollbook up --state {tmp_path}" in done.stderr


def test_port_in_use_is_named_and_the_suite_that_uses_it_stays_up(suite: RunningSuite, tmp_path: Path) -> None:
    pids = suite.endpoints()["pids"]
    done = tollbook("up", "--state", tmp_path / "second", "--base-port", suite.base_port)
    assert done.returncode == 2, done.stderr
    assert f"{suite.base_port} (for gateway)" in done.stderr
    assert not (tmp_path / "second" / "endpoints.json").exists()
    assert suite.endpoints()["pids"] == pids


@pytest.mark.parametrize(
    ("broken_rule", "words"),
    [
        ("not_yaml", ":3: not YAML"),
        ("limit_negative", ":14: plan starter, meter agent_minutes, limit: -1 is negative"),
        ("meter_unknown", ":14: plan starter, meter agent_hours: there is no meter 'agent_hours'"),
    ],
)
def test_corrupt_plans_file_is_refused_as_a_whole(suite: RunningSuite, broken_rule: str, words: str) -> None:
    path = _PLANS / f"{broken_rule}.yaml"
    catalog = catalog_pb2_grpc.CatalogServiceStub(suite.channel("billing"))
    before = call(catalog.ListPlans, catalog_pb2.ListPlansRequest(), key=suite.admin_key)
    done = tollbook("catalog", "apply", path, "--state", suite.state_dir)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{path}{words}" in done.stderr
    assert call(catalog.ListPlans, catalog_pb2.ListPlansRequest(), key=suite.admin_key) == before


def test_suite_does_not_start_with_a_corrupt_plans_file(tmp_path: Path) -> None:
    path = _PLANS / "limit_negative.yaml"
    state_dir = tmp_path / "state"
    done = tollbook("up", "--state", state_dir, "--base-port", free_port_block(PORTS), "--plans", path)
    assert done.returncode == 2, done.stderr
    assert f"{path}:14: plan starter, meter agent_minutes, limit: -1 is negative" in done.stderr
    assert not (state_dir / "endpoints.json").exists()


def test_applying_the_shipped_catalog_again_changes_nothing(suite: RunningSuite) -> None:
    done = tollbook("catalog", "apply", CHECKOUT / "deploy" / "plans.yaml", "--state", suite.state_dir)
    assert (done.returncode, done.stdout) == (0, "nothing changed\n"), done.stderr


def test_endpoints_that_are_not_json_are_named(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    path.write_text("{", encoding="ascii")
    done = tollbook("catalog", "apply", CHECKOUT / "deploy" / "plans.yaml", "--state", tmp_path)
    assert done.returncode == 2
    assert f"{path} is not JSON" in done.stderr


def test_endpoints_of_another_version_are_named(tmp_path: Path) -> None:
    (tmp_path / "endpoints.json").write_text(json.dumps({"gateway": "http://127.0.0.1:1"}), encoding="ascii")
    done = tollbook("catalog", "apply", CHECKOUT / "deploy" / "plans.yaml", "--state", tmp_path)
    assert done.returncode == 2
    assert "does not name metering, quota, billing, analytics, accounts, admin_key" in done.stderr
