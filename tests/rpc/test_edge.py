"""What every call meets at the edge of a service, on metering with its shipped fakes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kit.errors import DependencyUnavailable
from kit.grpc import interceptor
from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.interceptor import Gate
from kit.grpc.server import Application
from kit.testing.servers import KnownKeys, serving
from services.metering.adapters.memory import MemoryLedger, MemoryMeterCatalog
from services.metering.domain.acceptance import Outcome
from services.metering.domain.events import UsageEvent
from services.metering.domain.meters import Meter
from tests.metering_house import ledger_servicer, metering_servicer
from tollbook.access.v1 import access_pb2
from tollbook.errors.v1 import errors_pb2
from tollbook.feed.v1 import feed_pb2
from tollbook.metering.v1 import ledger_pb2, ledger_pb2_grpc, metering_pb2, metering_pb2_grpc

METERS = [
    Meter(name=name, base_unit="unit", display_unit="unit", base_units_per_display_unit=1)
    for name in ("agent_minutes", "api_calls")
]
KEYS = {
    "tb_live_acme": Principal(CallerKind.TENANT, "key-1", "acme", TENANT_SCOPES),
    "tb_live_read": Principal(CallerKind.TENANT, "key-2", "acme", frozenset({access_pb2.SCOPE_USAGE_READ})),
    "tb_admin_1": Principal(CallerKind.ADMIN, "admin"),
}
QUOTA_KEY = "tb_service_quota"


class TroubledLedger(MemoryLedger):
    """A ledger that hangs, breaks or is away when told to."""

    trouble: Exception | None = None
    hangs = False
    pauses: asyncio.Event | None = None

    def __init__(self) -> None:
        super().__init__()
        self.paused = asyncio.Event()

    async def append(self, events: Sequence[UsageEvent], *, now: datetime) -> Sequence[Outcome]:
        if self.trouble is not None:
            raise self.trouble
        if self.hangs:
            await asyncio.Event().wait()
        if self.pauses is not None:
            self.paused.set()
            await self.pauses.wait()
        return await super().append(events, now=now)


@pytest.fixture
def ledger() -> TroubledLedger:
    return TroubledLedger()


@pytest.fixture
def keys() -> KnownKeys:
    return KnownKeys(KEYS)


@pytest.fixture
def application(ledger: TroubledLedger, keys: KnownKeys) -> Application:
    catalog = MemoryMeterCatalog(*METERS)

    async def exists(organization_id: str) -> bool:
        return organization_id in ("acme", "other")

    async def prepare() -> None:
        return None

    metering = metering_servicer(ledger, catalog, exists=exists)
    return Application(
        authenticator=Authenticator(keys, {"quota": hashlib.sha256(QUOTA_KEY.encode()).hexdigest()}),
        servicers=[metering, ledger_servicer(ledger)],
        prepare=prepare,
    )


@pytest.fixture
async def channel(application: Application) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(application) as channel:
        yield channel


def key(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


def event(
    event_id: str = "1", organization_id: str = "", quantity: int = 1, meter: str = "api_calls"
) -> metering_pb2.UsageEvent:
    message = metering_pb2.UsageEvent(
        id=event_id,
        source="tests",
        subject=metering_pb2.Subject(organization_id=organization_id),
        measurements=[metering_pb2.Measurement(meter=meter, quantity=quantity)],
    )
    message.event_time.GetCurrentTime()
    return message


async def record(
    channel: grpc.aio.Channel, secret: str | None, *events: metering_pb2.UsageEvent
) -> metering_pb2.RecordUsageResponse:
    stub = metering_pb2_grpc.MeteringServiceStub(channel)
    metadata = key(secret) if secret else ()
    return await stub.RecordUsage(metering_pb2.RecordUsageRequest(events=events or [event()]), metadata=metadata)


async def query(channel: grpc.aio.Channel, secret: str, organization_id: str = "") -> dict[str, int]:
    stub = metering_pb2_grpc.MeteringServiceStub(channel)
    request = metering_pb2.QueryUsageRequest(organization_id=organization_id)
    return {row.meter: row.quantity for row in (await stub.QueryUsage(request, metadata=key(secret))).rows}


async def refusal(call: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code(), reason_of(caught.value)


async def test_a_call_without_a_key_is_told_how_to_send_one(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="authorization: Bearer") as caught:
        await record(channel, None)
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING")


@pytest.mark.parametrize("secret", ["tb_live_wrong", "tb_service_wrong", "tb_admin_wrong"])
async def test_a_wrong_key_is_refused(channel: grpc.aio.Channel, secret: str) -> None:
    assert await refusal(record(channel, secret)) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")


async def test_a_key_without_the_scope_is_refused_and_nothing_is_recorded(channel: grpc.aio.Channel) -> None:
    assert await refusal(record(channel, "tb_live_read")) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert await query(channel, "tb_live_read") == {}


async def test_another_tenants_id_is_refused_and_nothing_is_recorded(channel: grpc.aio.Channel) -> None:
    refused = (grpc.StatusCode.PERMISSION_DENIED, "ORGANIZATION_MISMATCH")
    assert await refusal(record(channel, "tb_live_acme", event("1"), event("2", "other"))) == refused
    assert await refusal(query(channel, "tb_live_acme", "other")) == refused
    assert await query(channel, "tb_admin_1", "acme") == {}


async def test_the_admin_must_name_an_organization_that_exists(channel: grpc.aio.Channel) -> None:
    assert (await refusal(query(channel, "tb_admin_1")))[1] == "ORGANIZATION_REQUIRED"
    assert (await refusal(query(channel, "tb_admin_1", "nobody")))[1] == "ORGANIZATION_NOT_FOUND"


async def test_one_service_may_not_call_what_is_not_meant_for_it(channel: grpc.aio.Channel) -> None:
    stub = ledger_pb2_grpc.LedgerServiceStub(channel)
    request = ledger_pb2.SnapshotUsageRequest(organization_id="acme")
    assert (await refusal(stub.SnapshotUsage(request, metadata=key("tb_live_acme"))))[1] == "SCOPE_MISSING"
    assert (await refusal(stub.SnapshotUsage(request, metadata=key(QUOTA_KEY))))[1] == "INVALID_FIELD"
    assert (await refusal(query(channel, QUOTA_KEY, "acme")))[1] == "SCOPE_MISSING"


async def test_bad_events_are_refused_one_by_one_and_the_rest_stands(channel: grpc.aio.Channel) -> None:
    answer = await record(
        channel,
        "tb_live_acme",
        event("good", quantity=5),
        event("negative", quantity=-1),
        event("huge", quantity=2**53),
        event("unknown", meter="nonsense"),
        metering_pb2.UsageEvent(id="timeless", source="tests"),
        event("also good", quantity=6),
    )
    statuses = [metering_pb2.EventStatus.Name(result.status).removeprefix("EVENT_STATUS_") for result in answer.results]
    assert statuses == ["ACCEPTED", "REJECTED", "REJECTED", "REJECTED", "REJECTED", "ACCEPTED"]
    assert [result.index for result in answer.results] == list(range(6))
    assert [result.sequence for result in answer.results] == [1, 0, 0, 0, 0, 2]
    assert await query(channel, "tb_live_acme") == {"api_calls": 11}


async def test_a_tenant_cannot_speak_in_the_name_of_a_service(channel: grpc.aio.Channel) -> None:
    spoofed = event()
    spoofed.source = "analytics"
    answer = await record(channel, "tb_live_acme", spoofed, event("own"))
    assert [result.status for result in answer.results] == [
        metering_pb2.EVENT_STATUS_REJECTED,
        metering_pb2.EVENT_STATUS_ACCEPTED,
    ]


def reversal(event_id: str, target_id: str, *, source: str = "tests") -> metering_pb2.UsageEvent:
    target = metering_pb2.EventRef(source=source, id=target_id)
    return metering_pb2.UsageEvent(id=event_id, source="tests", reversal_of=target)


def reasons(answer: metering_pb2.RecordUsageResponse) -> list[str]:
    return [
        errors_pb2.ErrorReason.Name(result.reason).removeprefix("ERROR_REASON_")
        if result.reason
        else metering_pb2.EventStatus.Name(result.status).removeprefix("EVENT_STATUS_")
        for result in answer.results
    ]


async def list_events(
    channel: grpc.aio.Channel, caller: str = "tb_live_acme", **fields: Any
) -> metering_pb2.ListUsageEventsResponse:
    stub = metering_pb2_grpc.MeteringServiceStub(channel)
    return await stub.ListUsageEvents(metering_pb2.ListUsageEventsRequest(**fields), metadata=key(caller))


async def test_a_reversal_over_the_wire_takes_its_event_back_once(channel: grpc.aio.Channel) -> None:
    answer = await record(
        channel,
        "tb_live_acme",
        event("a", quantity=5),
        event("b", quantity=7),
        reversal("r1", "a"),
        reversal("r2", "a"),
        reversal("r3", "unheard of"),
        reversal("r4", "r1"),
    )
    assert reasons(answer) == [
        "ACCEPTED",
        "ACCEPTED",
        "ACCEPTED",
        "ALREADY_REVERSED",
        "REVERSAL_TARGET_NOT_FOUND",
        "ALREADY_REVERSED",
    ]
    assert await query(channel, "tb_live_acme") == {"api_calls": 7}


async def test_followers_are_handed_a_reversal_with_what_it_takes_back(channel: grpc.aio.Channel) -> None:
    target = event("a", "acme", quantity=5)
    await record(channel, "tb_admin_1", target)
    await record(channel, "tb_live_acme", reversal("r", "a"))
    stub = ledger_pb2_grpc.LedgerServiceStub(channel)
    request = ledger_pb2.ReadLedgerRequest(organization_id="acme")
    entries = [entry async for page in stub.ReadLedger(request, metadata=key(QUOTA_KEY)) for entry in page.events]
    assert not entries[0].HasField("reversed")
    as_sent = reversal("r", "a")
    as_sent.subject.organization_id = "acme"
    assert (entries[1].event, entries[1].reversed) == (as_sent, target)
    snapshot = ledger_pb2.SnapshotUsageRequest(organization_id="acme")
    snapshot.start_time.FromNanoseconds(0)
    snapshot.end_time.FromSeconds(4_000_000_000)
    rows = (await stub.SnapshotUsage(snapshot, metadata=key(QUOTA_KEY))).rows
    assert sum(row.quantity for row in rows) == 0


async def test_a_snapshot_totals_members_as_of_an_earlier_event(channel: grpc.aio.Channel) -> None:
    first, second = event("a", "acme"), event("b", "acme")
    first.subject.user_id = second.subject.user_id = "u"
    assert reasons(await record(channel, "tb_live_acme", first, second)) == ["ACCEPTED", "ACCEPTED"]
    stub = ledger_pb2_grpc.LedgerServiceStub(channel)
    snapshot = ledger_pb2.SnapshotUsageRequest(organization_id="acme", as_of_sequence=1)
    snapshot.start_time.FromNanoseconds(0)
    snapshot.end_time.FromSeconds(4_000_000_000)
    meter = first.measurements[0].meter
    snapshot.scoped.add(level="user", meters=[meter])
    answer = await stub.SnapshotUsage(snapshot, metadata=key(QUOTA_KEY))
    row = ledger_pb2.ScopedUsageRow(level="user", id="u", meter=meter, quantity=first.measurements[0].quantity)
    assert (list(answer.scoped_rows), answer.position.sequence) == ([row], 1)


@pytest.mark.parametrize(
    ("level", "meters"),
    [
        ("session", ["api_calls"]),
        ("users", ["api_calls"]),
        ("user", []),
        ("user", ["api_calls", "api_calls"]),
        ("user", ["\0"]),
    ],
)
async def test_a_snapshot_of_no_level_or_no_meter_is_refused(
    channel: grpc.aio.Channel, level: str, meters: list[str]
) -> None:
    snapshot = ledger_pb2.SnapshotUsageRequest(organization_id="acme")
    snapshot.start_time.FromNanoseconds(0)
    snapshot.end_time.FromSeconds(1)
    snapshot.scoped.add(level=level, meters=meters)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger_pb2_grpc.LedgerServiceStub(channel).SnapshotUsage(snapshot, metadata=key(QUOTA_KEY))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_tenant_cannot_take_back_what_a_service_said(channel: grpc.aio.Channel) -> None:
    said = event("denials", "acme")
    said.source = "quota"
    assert reasons(await record(channel, QUOTA_KEY, said)) == ["ACCEPTED"]
    taken_back = reversal("r", "denials", source="quota")
    assert reasons(await record(channel, "tb_live_acme", taken_back)) == ["INVALID_FIELD"]
    taken_back.source, taken_back.subject.organization_id = "quota", "acme"
    assert reasons(await record(channel, QUOTA_KEY, taken_back)) == ["ACCEPTED"]


async def test_labels_and_task_outcomes_are_kept_and_others_refused_one_by_one(channel: grpc.aio.Channel) -> None:
    labelled, foreign, ended, undefined = (
        event(name, "acme") for name in ("labelled", "foreign", "ended", "undefined")
    )
    labelled.labels.update({"workflow": "nightly", "environment": "test"})
    foreign.labels["prompt"] = "x"
    ended.task_outcome = metering_pb2.TASK_OUTCOME_CANCELLED
    undefined.task_outcome = 77  # type: ignore[assignment]
    answer = await record(channel, "tb_live_acme", labelled, foreign, ended, undefined)
    assert reasons(answer) == ["ACCEPTED", "LABEL_NOT_ALLOWED", "ACCEPTED", "INVALID_FIELD"]
    assert [each.event for each in (await list_events(channel)).events] == [labelled, ended]


async def test_a_backfill_over_the_wire_admits_the_past_only(channel: grpc.aio.Channel) -> None:
    stub = metering_pb2_grpc.MeteringServiceStub(channel)
    old, early = event("old"), event("early")
    old.event_time.FromSeconds(1_000_000_000)
    early.event_time.FromSeconds(4_000_000_000)
    assert reasons(await record(channel, "tb_live_acme", old, early)) == ["EVENT_TOO_OLD", "EVENT_IN_FUTURE"]
    request = metering_pb2.RecordUsageRequest(events=[old, early], backfill=True)
    assert reasons(await stub.RecordUsage(request, metadata=key("tb_live_acme"))) == ["ACCEPTED", "EVENT_IN_FUTURE"]


async def test_a_user_is_a_surrogate_and_never_a_mail_address(channel: grpc.aio.Channel) -> None:
    named, surrogate = event("named"), event("surrogate")
    named.subject.user_id, surrogate.subject.user_id = "jane@example.com", "user-7f3a"
    assert reasons(await record(channel, "tb_live_acme", named, surrogate)) == ["INVALID_FIELD", "ACCEPTED"]


async def test_listed_events_come_page_by_page_in_sequence_as_they_were_sent(channel: grpc.aio.Channel) -> None:
    sent = [event(f"e{number}", "acme") for number in range(5)]
    await record(channel, "tb_live_acme", *sent)
    pages = [await list_events(channel, page_size=2)]
    while pages[-1].next_page_token:
        pages.append(await list_events(channel, page_size=2, page_token=pages[-1].next_page_token))
    assert [len(page.events) for page in pages] == [2, 2, 1]
    listed = [each for page in pages for each in page.events]
    assert [each.sequence for each in listed] == [1, 2, 3, 4, 5]
    assert [each.event for each in listed] == sent
    assert all(each.HasField("receive_time") for each in listed)


async def test_a_last_page_that_is_full_has_no_token(channel: grpc.aio.Channel) -> None:
    await record(channel, "tb_live_acme", event("a"), event("b"))
    assert (await list_events(channel, page_size=2)).next_page_token == ""
    assert len((await list_events(channel)).events) == 2


async def test_a_listing_filters_by_a_half_open_interval_with_edges_of_a_microsecond(
    channel: grpc.aio.Channel,
) -> None:
    message = event("a")
    await record(channel, "tb_live_acme", message)
    at_us = message.event_time.ToNanoseconds() // 1_000
    start, end = Timestamp(), Timestamp()
    start.FromMicroseconds(at_us)
    end.FromMicroseconds(at_us + 1)
    assert len((await list_events(channel, start_time=start, end_time=end)).events) == 1
    assert len((await list_events(channel, start_time=end)).events) == 0
    assert len((await list_events(channel, end_time=start)).events) == 0
    start.nanos += 1
    refused = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert await refusal(list_events(channel, start_time=start)) == refused


async def test_a_page_token_is_good_for_its_interval_alone(channel: grpc.aio.Channel) -> None:
    await record(channel, "tb_live_acme", event("a"), event("b"))
    token = (await list_events(channel, page_size=1)).next_page_token
    refused = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    for fields in (
        {"page_token": token, "end_time": Timestamp(seconds=4_000_000_000)},
        {"page_token": "nonsense"},
        {"page_token": token + "="},
        {"page_token": base64.urlsafe_b64encode(b"-1:None:None").decode()},
        {"page_token": "ä"},
    ):
        assert await refusal(list_events(channel, **fields)) == refused, fields


async def test_a_page_size_out_of_range_is_refused(channel: grpc.aio.Channel) -> None:
    refused = grpc.StatusCode.INVALID_ARGUMENT
    assert await refusal(list_events(channel, page_size=-1)) == (refused, "INVALID_FIELD")
    assert await refusal(list_events(channel, page_size=1_001)) == (refused, "LIMIT_EXCEEDED")
    assert len((await list_events(channel, page_size=1_000)).events) == 0


async def test_a_listing_is_of_ones_own_organization(channel: grpc.aio.Channel) -> None:
    await record(channel, "tb_admin_1", event("a", "other"))
    assert len((await list_events(channel)).events) == 0
    refused = (grpc.StatusCode.PERMISSION_DENIED, "ORGANIZATION_MISMATCH")
    assert await refusal(list_events(channel, organization_id="other")) == refused
    assert len((await list_events(channel, "tb_admin_1", organization_id="other")).events) == 1


async def test_the_request_id_of_the_caller_comes_back(channel: grpc.aio.Channel) -> None:
    stub = metering_pb2_grpc.MeteringServiceStub(channel)
    call = stub.ListMeters(
        metering_pb2.ListMetersRequest(), metadata=(*key("tb_live_acme"), ("x-request-id", "my-request"))
    )
    await call
    assert ("x-request-id", "my-request") in list(await call.trailing_metadata() or ())


async def test_a_defect_is_answered_without_telling_its_inside(
    channel: grpc.aio.Channel, ledger: TroubledLedger
) -> None:
    ledger.trouble = RuntimeError("password=secret")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await record(channel, "tb_live_acme")
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in str(caught.value)


async def test_a_store_that_is_away_is_unavailable_and_the_retry_counts_once(
    channel: grpc.aio.Channel, ledger: TroubledLedger
) -> None:
    ledger.trouble = DependencyUnavailable(dependency="Postgres")
    refused = (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert await refusal(record(channel, "tb_live_acme")) == refused
    ledger.trouble = None
    message = event()
    await record(channel, "tb_live_acme", message)
    await record(channel, "tb_live_acme", message)
    assert await query(channel, "tb_live_acme") == {"api_calls": 1}


async def test_a_call_without_a_deadline_still_ends(
    channel: grpc.aio.Channel, ledger: TroubledLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptor, "UNARY_DEADLINE_SECONDS_MAX", 0.05)
    ledger.hangs = True
    refused = (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert await refusal(record(channel, "tb_live_acme")) == refused


async def test_a_service_that_is_not_ready_says_so_but_answers_reflection(application: Application) -> None:
    async with serving(application, is_open=False) as channel:
        refused = (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
        assert await refusal(record(channel, "tb_live_acme")) == refused
        assert "tollbook.metering.v1.MeteringService" in await reflected(channel, "v1alpha")


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_both_versions_of_reflection_tell_the_services(channel: grpc.aio.Channel, version: str) -> None:
    names = await reflected(channel, version)
    assert {"tollbook.metering.v1.MeteringService", "tollbook.metering.v1.LedgerService"} <= set(names)


async def test_health_can_be_watched(channel: grpc.aio.Channel) -> None:
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest(service=""))
    answer = await watch.read()
    assert isinstance(answer, health_pb2.HealthCheckResponse)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


async def reflected(channel: grpc.aio.Channel, version: str) -> list[str]:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    answer = await call.read()
    assert isinstance(answer, reflection_pb2.ServerReflectionResponse)
    return [service.name for service in answer.list_services_response.service]


async def test_an_id_that_no_organization_can_have_is_an_invalid_field(channel: grpc.aio.Channel) -> None:
    stub = ledger_pb2_grpc.LedgerServiceStub(channel)
    for malformed in ("Acme", "a b", "a'; drop", "\x00", "ü", "a" * 65, "x" * 1_000_000):
        refused = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert await refusal(query(channel, "tb_admin_1", malformed)) == refused
        read = stub.ReadLedger(ledger_pb2.ReadLedgerRequest(organization_id=malformed), metadata=key(QUOTA_KEY))
        assert await refusal(read.read()) == refused


async def test_a_refusal_that_quotes_megabytes_still_arrives(channel: grpc.aio.Channel) -> None:
    stub = metering_pb2_grpc.MeteringServiceStub(channel)
    for huge in ("x" * 1_000_000, "\u20ac" * 300_000, "\x00" * 300_000):
        request = metering_pb2.QueryUsageRequest(meters=[huge])
        call = stub.QueryUsage(request, metadata=key("tb_live_acme"))
        assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_METER")


async def test_an_unknown_organization_is_refused_alone_and_the_rest_of_its_batch_stands(
    channel: grpc.aio.Channel,
) -> None:
    batch = [event("1", "acme", 5), event("2", "nobody"), event("3"), event("4", "No'body"), event("5", "other", 7)]
    answer = await record(channel, "tb_admin_1", *batch)
    reasons = [errors_pb2.ErrorReason.Name(each.reason).removeprefix("ERROR_REASON_") for each in answer.results]
    assert reasons == [
        "UNSPECIFIED",
        "ORGANIZATION_NOT_FOUND",
        "ORGANIZATION_REQUIRED",
        "INVALID_FIELD",
        "UNSPECIFIED",
    ]
    assert await query(channel, "tb_admin_1", "acme") == {"api_calls": 5}
    assert await query(channel, "tb_admin_1", "other") == {"api_calls": 7}


async def test_a_quantity_that_would_take_totals_beyond_the_contract_is_refused_with_its_event_and_all_are_told(
    channel: grpc.aio.Channel,
) -> None:
    largest = [event(str(number), quantity=2**53 - 1) for number in range(1_025)]
    results = (await record(channel, "tb_live_acme", *largest, event("small", meter="agent_minutes"))).results
    taken = [result.status for result in results].count(metering_pb2.EVENT_STATUS_ACCEPTED) - 1
    assert results[-1].status == metering_pb2.EVENT_STATUS_ACCEPTED
    assert results[-2].status == metering_pb2.EVENT_STATUS_REJECTED
    assert results[-2].reason == errors_pb2.ERROR_REASON_LIMIT_EXCEEDED
    totals = {"agent_minutes": 1, "api_calls": taken * (2**53 - 1)}
    assert await query(channel, "tb_live_acme") == totals
    request = ledger_pb2.SnapshotUsageRequest(organization_id="acme")
    request.start_time.FromSeconds(0)
    request.end_time.FromSeconds(4_000_000_000)
    snapshot = await ledger_pb2_grpc.LedgerServiceStub(channel).SnapshotUsage(request, metadata=key(QUOTA_KEY))
    assert {row.meter: row.quantity for row in snapshot.rows} == totals


async def test_a_negative_position_is_refused(channel: grpc.aio.Channel) -> None:
    request = ledger_pb2.ReadLedgerRequest(organization_id="acme", after=feed_pb2.Position(sequence=-1))
    read = ledger_pb2_grpc.LedgerServiceStub(channel).ReadLedger(request, metadata=key(QUOTA_KEY))
    assert await refusal(read.read()) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_a_server_that_drains_ends_its_streams_and_lets_its_calls_finish(
    application: Application, ledger: TroubledLedger
) -> None:
    gate = Gate()
    async with serving(application, gate=gate) as channel:
        watch = ledger_pb2_grpc.LedgerServiceStub(channel).WatchHeads(
            ledger_pb2.WatchHeadsRequest(), metadata=key(QUOTA_KEY)
        )
        await watch.read()
        ledger.pauses = asyncio.Event()
        recording = asyncio.create_task(record(channel, "tb_live_acme"))
        await ledger.paused.wait()
        gate.drain()
        async with asyncio.timeout(1):
            assert await refusal(watch.read()) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
        ledger.pauses.set()
        assert (await recording).results[0].status == metering_pb2.EVENT_STATUS_ACCEPTED


async def test_a_stream_whose_reader_is_slow_is_told_that_the_server_drains(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, writes = Gate(), asyncio.Event()

    async def much(*_: Any) -> AsyncIterator[ledger_pb2.WatchHeadsResponse]:
        writes.set()
        # More than the connection takes before its reader reads.
        yield ledger_pb2.WatchHeadsResponse(heads=[feed_pb2.Head(organization_id="a" * 3_000_000)])

    (servicer,) = [each for each in application.servicers if each.service_name.endswith("LedgerService")]
    monkeypatch.setattr(type(servicer), "WatchHeads", much)
    async with serving(application, gate=gate) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        watch = stub.WatchHeads(ledger_pb2.WatchHeadsRequest(), metadata=key(QUOTA_KEY))
        await writes.wait()
        await asyncio.sleep(0)
        gate.drain()
        async with asyncio.timeout(10):
            await watch.read()
            assert await refusal(watch.read()) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")


async def test_a_stream_that_begins_while_the_server_drains_is_refused(application: Application) -> None:
    gate = Gate()
    async with serving(application, gate=gate) as channel:
        gate.drain()
        watch = ledger_pb2_grpc.LedgerServiceStub(channel).WatchHeads(
            ledger_pb2.WatchHeadsRequest(), metadata=key(QUOTA_KEY)
        )
        async with asyncio.timeout(10):
            assert await refusal(watch.read()) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")


async def test_a_revoked_key_is_refused_within_a_second(channel: grpc.aio.Channel, keys: KnownKeys) -> None:
    await query(channel, "tb_live_read")
    del keys.principals["tb_live_read"]
    loop = asyncio.get_running_loop()
    revoked = loop.time()
    while True:
        try:
            await query(channel, "tb_live_read")
        except grpc.aio.AioRpcError as error:
            assert reason_of(error) == "CREDENTIAL_INVALID"  # noqa: PT017 - ends a loop of calls that still pass
            break
        assert loop.time() - revoked < 1


async def test_many_calls_with_one_key_ask_accounts_once(channel: grpc.aio.Channel, keys: KnownKeys) -> None:
    await asyncio.gather(*(query(channel, "tb_live_acme") for _ in range(50)))
    assert keys.look_ups == 1


async def test_a_client_that_gives_up_ends_its_call(channel: grpc.aio.Channel, ledger: TroubledLedger) -> None:
    ledger.hangs = True
    call = asyncio.create_task(record(channel, "tb_live_acme"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    ledger.hangs = False
    await record(channel, "tb_live_acme", event("after"))
    assert await query(channel, "tb_live_acme") == {"api_calls": 1}
