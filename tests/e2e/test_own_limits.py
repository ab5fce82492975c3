"""Limits of an organization's own, with the whole suite running."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
import redis

from tests.e2e.running_suite import RunningSuite, Tenant, call, refusal_of, tollbook, wait_for
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

METER = "api_calls"
LEVELS = ["project", "team", "user", "agent", "task"]
SOON_SECONDS = 10.0


class Client:
    """One organization's calls."""

    def __init__(self, suite: RunningSuite, tenant: Tenant) -> None:
        self._tenant = tenant
        self._metering = metering_pb2_grpc.MeteringServiceStub(suite.channel("metering"))
        self.quota = quota_pb2_grpc.QuotaServiceStub(suite.channel("quota"))

    def record(self, event_id: str, quantity: int, *, reverses: str = "", **subject: str) -> None:
        event = metering_pb2.UsageEvent(id=event_id, source="e2e")
        if reverses:
            event.reversal_of.CopyFrom(metering_pb2.EventRef(source="e2e", id=reverses))
        else:
            event.subject.CopyFrom(metering_pb2.Subject(**subject))
            event.measurements.add(meter=METER, quantity=quantity)
            event.event_time.FromDatetime(datetime.now(UTC))
        answer = call(self._metering.RecordUsage, metering_pb2.RecordUsageRequest(events=[event]), key=self._tenant.key)
        assert answer.results[0].status == metering_pb2.EVENT_STATUS_ACCEPTED

    def set(self, request_id: str, value: int, level: str) -> quota_pb2.Limit:
        kind = quota_pb2.LimitScopeKind.Value(f"LIMIT_SCOPE_KIND_{level.upper()}")
        limit = quota_pb2.Limit(
            meter=METER, kind=quota_pb2.LIMIT_KIND_PERIOD, value=value, grace_percent=0,
            scope=quota_pb2.LimitScope(kind=kind),
        )  # fmt: skip
        request = quota_pb2.SetLimitRequest(request_id=request_id, limit=limit)
        return call(self.quota.SetLimit, request, key=self._tenant.key).limit

    def check(self, quantity: int, **subject: str) -> quota_pb2.CheckResponse:
        request = quota_pb2.CheckRequest(
            subject=metering_pb2.Subject(**subject),
            consumptions=[quota_pb2.Consumption(meter=METER, quantity=quantity)],
        )
        return call(self.quota.Check, request, key=self._tenant.key)

    def denied(self, quantity: int, **subject: str) -> bool:
        return self.check(quantity, **subject).decision == quota_pb2.DECISION_DENIED


@pytest.fixture
def client(suite: RunningSuite, tenant: Tenant) -> Client:
    return Client(suite, tenant)


@pytest.mark.parametrize("level", LEVELS)
def test_a_limit_of_each_member_counts_usage_from_before_and_after_it_was_set_exactly(
    client: Client, level: str
) -> None:
    mine, other = {f"{level}_id": "m1"}, {f"{level}_id": "m2"}
    client.record("a", 60, **mine)
    client.record("b", 7, **mine)
    client.record("c", 5, **mine)
    client.record("taken back", 5, reverses="c")
    client.record("d", 90, **other)
    assert not client.denied(10**9, **mine)
    client.record("e", 3, **mine)

    client.set("q1", 100, level)
    # Usage from before: at once, but for what the ledger has just been told.
    wait_for(lambda: client.denied(31, **mine), seconds=SOON_SECONDS, what="70 used")
    assert not client.denied(30, **mine)
    assert client.denied(11, **other)
    assert not client.denied(10, **other)
    assert not client.denied(10**9)

    client.record("f", 20, **mine)
    wait_for(lambda: client.denied(11, **mine), seconds=SOON_SECONDS, what="90 used")
    assert not client.denied(10, **mine)


def test_a_limit_is_in_force_when_set_and_out_of_it_when_deleted_over_rest_too(
    suite: RunningSuite, tenant: Tenant, client: Client
) -> None:
    assert not client.denied(11)
    with suite.rest(tenant.key) as rest:
        body = {
            "requestId": "q1",
            "limit": {"limitId": "mine", "meter": METER, "kind": "LIMIT_KIND_PERIOD", "value": 10},
        }
        answer = rest.post("/api/v1/limits", json=body)
        assert (answer.status_code, answer.json()["limit"]["gracePercent"]) == (200, 10)
        assert client.denied(12)
        listed = rest.get("/api/v1/limits").json()["limits"]
        assert "mine" in [limit["limitId"] for limit in listed]
        assert "plan:agent_minutes" in [limit["limitId"] for limit in listed]
        assert rest.delete("/api/v1/limits/mine", params={"requestId": "q2"}).status_code == 200
        assert not client.denied(12)
        assert rest.delete("/api/v1/limits/mine", params={"requestId": "q3"}).status_code == 404


def test_rest_lists_a_limit_of_each_member_and_the_members_that_used_most(
    suite: RunningSuite, tenant: Tenant, client: Client
) -> None:
    limit_id = client.set("q1", 100, "user").limit_id
    client.record("a", 7, user_id="ann")
    client.record("b", 60, user_id="bob")

    def shown(rest: httpx.Client) -> list[tuple[str | None, str, str]]:
        limits = rest.get("/api/v1/quotas").json()["limits"]
        return [
            (state["scope"].get("id"), state["used"], state["remaining"])
            for state in limits
            if state["limitId"] == limit_id
        ]

    expected = [(None, "0", "100"), ("bob", "60", "40"), ("ann", "7", "93")]
    with suite.rest(tenant.key) as rest:
        wait_for(lambda: shown(rest) == expected, seconds=SOON_SECONDS, what=f"{expected} over REST")


def test_another_organization_sees_and_changes_no_limit_of_this_one(suite: RunningSuite, client: Client) -> None:
    limit = client.set("q1", 10, "user")
    stranger = suite.new_tenant()
    listed = call(client.quota.ListLimits, quota_pb2.ListLimitsRequest(), key=stranger.key)
    assert limit.limit_id not in [each.limit_id for each in listed.limits]
    request = quota_pb2.DeleteLimitRequest(request_id="q1", limit_id=limit.limit_id)
    assert refusal_of(client.quota.DeleteLimit, request, key=stranger.key) == ("NOT_FOUND", "NOT_FOUND")
    assert client.denied(11, user_id="u1")


def test_the_operator_finds_and_repairs_a_counter_that_is_wrong(
    suite: RunningSuite, tenant: Tenant, client: Client
) -> None:
    client.set("q1", 100, "user")
    client.record("a", 70, user_id="u1")
    wait_for(lambda: client.denied(31, user_id="u1"), seconds=SOON_SECONDS, what="70 used")
    arguments = ("quota", "audit", "--organization", tenant.organization_id, "--state", suite.state_dir)
    clean = tollbook(*arguments)
    assert (clean.returncode, clean.stdout) == (0, "audited 1, wrong 0, inconclusive 0\n")

    store = redis.Redis.from_url(suite.endpoints()["redis"])
    (used,) = store.scan_iter(match=f"quota:{{{tenant.organization_id}}}:used:*", count=10_000)
    store.hset(used, f"user|u1|{METER}", "5")
    # Who finds it first, this command or quota itself, repairs it.
    assert tollbook(*arguments, "--repair").returncode == 0
    assert store.hget(used, f"user|u1|{METER}") == b"70"
    assert client.denied(31, user_id="u1")
    store.close()
