"""The other doors into the ledger, on a real server with the shipped fakes: CloudEvents, OTLP, task time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable
from kit.feed import START
from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.testing.clock import FakeClock
from kit.testing.servers import KnownKeys, serving
from services.metering.adapters.memory import MemoryLedger, MemoryMeterCatalog
from services.metering.adapters.memory_task_times import MemoryTaskTimes
from services.metering.adapters.memory_usage import MemoryUsageReader
from services.metering.application.ports import Interval
from services.metering.application.query_usage import QueryUsage
from services.metering.application.record_mapped_usage import RecordMappedUsage
from services.metering.application.record_usage import RecordUsage
from services.metering.application.report_task_time import ReportTaskTime
from services.metering.domain import limits
from services.metering.domain.acceptance import Outcome
from services.metering.domain.cloudevents import MeterMapping
from services.metering.domain.events import EventRef, LedgerEvent, Subject, UsageEvent
from services.metering.domain.meters import Meter, MeterRequest, ValueSource
from services.metering.rpc.cloudevents_servicer import CloudEventsServicer
from services.metering.rpc.otlp_servicers import FOREIGN_SCOPES, OtlpLogsServicer, OtlpTraceServicer
from services.metering.rpc.task_time_servicer import TaskTimeServicer
from tollbook.access.v1 import access_pb2
from tollbook.metering.v1 import (
    cloudevents_pb2,
    cloudevents_pb2_grpc,
    metering_pb2,
    task_time_pb2,
    task_time_pb2_grpc,
)

KEYS = {
    "tb_live_acme": Principal(CallerKind.TENANT, "key-1", "acme", TENANT_SCOPES),
    "tb_live_read": Principal(CallerKind.TENANT, "key-2", "acme", frozenset({access_pb2.SCOPE_USAGE_READ})),
    "tb_admin_1": Principal(CallerKind.ADMIN, "admin"),
}
TOKENS = ("tokens_cache_read", "tokens_cache_write", "tokens_input", "tokens_output", "tokens_reasoning")
SINGLE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
USAGE = "dev.tollbook.usage.v1"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
NOW_NS = unix_microseconds(NOW) * 1_000


class TroubledLedger(MemoryLedger):
    trouble: Exception | None = None

    async def append(self, events: Sequence[UsageEvent], *, now: datetime) -> Sequence[Outcome]:
        if self.trouble is not None:
            raise self.trouble
        return await super().append(events, now=now)


@dataclass
class House:
    ledger: TroubledLedger
    meters: MemoryMeterCatalog
    channel: grpc.aio.Channel
    clock: FakeClock
    keys: KnownKeys

    async def entries(self) -> list[LedgerEvent]:
        return [entry async for page in self.ledger.read("acme", START) for entry in page.entries]

    async def events(self) -> list[UsageEvent]:
        return [entry.event for entry in await self.entries()]

    async def totals(self) -> dict[str, int]:
        answer = await QueryUsage(MemoryUsageReader(self.ledger), self.meters)("acme", Interval(None, None))
        return {row.meter: row.quantity for row in answer.rows if row.quantity}

    async def send(
        self, body: object, content_type: str = SINGLE, *, key: str = "tb_live_acme", **headers: str
    ) -> list[tuple[str, str]]:
        """Status and reason of each CloudEvent."""
        request = cloudevents_pb2.IngestCloudEventsRequest(
            body=body if isinstance(body, bytes) else json.dumps(body).encode(),
            content_type=content_type,
            headers=[cloudevents_pb2.HttpHeader(name=f"ce-{name}", value=value) for name, value in headers.items()],
        )
        stub = cloudevents_pb2_grpc.CloudEventsServiceStub(self.channel)
        results = (await stub.IngestCloudEvents(request, metadata=as_(key))).results
        assert [result.index for result in results] == list(range(len(results)))
        return [short(json_format.MessageToDict(result)) for result in results]

    async def export(self, *spans: trace_pb2.Span, key: str = "tb_live_acme") -> tuple[int, str]:
        stub = trace_service_pb2_grpc.TraceServiceStub(self.channel)  # type: ignore[no-untyped-call]
        resource = resource_pb2.Resource(attributes=attributes({"tollbook.project_id": "p1", "service.name": "agents"}))
        scope_spans = trace_pb2.ScopeSpans(spans=spans)
        request = trace_service_pb2.ExportTraceServiceRequest(
            resource_spans=[trace_pb2.ResourceSpans(resource=resource, scope_spans=[scope_spans])]
        )
        partial = (await stub.Export(request, metadata=as_(key))).partial_success
        return partial.rejected_spans, partial.error_message

    async def report(self, **fields: Any) -> task_time_pb2.ReportTaskTimeResponse:
        key = fields.pop("key", "tb_live_acme")
        stub = task_time_pb2_grpc.TaskTimeServiceStub(self.channel)
        return await stub.ReportTaskTime(task_report(**fields), metadata=as_(key))


@pytest.fixture
async def house() -> AsyncIterator[House]:
    ledger, clock, keys = TroubledLedger(), FakeClock(NOW), KnownKeys(KEYS)
    meters = MemoryMeterCatalog(
        *(
            Meter(name=name, base_unit="unit", display_unit="unit", base_units_per_display_unit=1)
            for name in ("api_calls", "agent_minutes", *TOKENS)
        )
    )
    record_usage = RecordMappedUsage(RecordUsage(ledger, meters, clock))

    async def exists(organization_id: str) -> bool:
        return organization_id == "acme"

    async def prepare() -> None:
        return None

    application = Application(
        authenticator=Authenticator(keys, {}),
        servicers=[
            CloudEventsServicer(
                record_usage=record_usage,
                mappings={"request": MeterMapping("api_calls", ""), "batch": MeterMapping("api_calls", "calls")},
                exists=exists,
            ),
            OtlpTraceServicer(record_usage),
            OtlpLogsServicer(record_usage),
            TaskTimeServicer(report_task_time=ReportTaskTime(MemoryTaskTimes(ledger), clock), exists=exists),
        ],
        foreign_scopes=FOREIGN_SCOPES,
        prepare=prepare,
    )
    async with serving(application) as channel:
        yield House(ledger, meters, channel, clock, keys)


def as_(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),) if key else ()


def short(result: dict[str, Any]) -> tuple[str, str]:
    reason = str(result.get("reason", "")).removeprefix("ERROR_REASON_")
    return str(result["status"]).removeprefix("EVENT_STATUS_"), reason


async def refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), reason_of(caught.value)


def cloud_event(event_id: str = "1", kind: str = "request", **changes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "agents",
        "type": kind,
        "time": "2026-01-31T11:59:59.123456789Z",
    } | changes


def usage(event_id: str = "1", subject: str | None = None, **data: Any) -> dict[str, Any]:
    return cloud_event(event_id, USAGE, subject=subject, data=data)


ACCEPTED, DUPLICATE = ("ACCEPTED", ""), ("DUPLICATE", "")
INVALID = ("REJECTED", "INVALID_FIELD")
CALLS = [{"meter": "api_calls", "quantity": "3"}]


# ---- CloudEvents


async def test_a_usage_cloudevent_is_the_usage_event_that_its_data_says(house: House) -> None:
    body = usage(
        subject="u1",
        measurements=[{"meter": "api_calls", "quantity": 9007199254740991}],
        providerCall={"provider": "openai", "tokensOutput": "5", "latency": "1.5s", "outcome": "OUTCOME_SUCCESS"},
        reservation_id="r1",
        reservationFinal=True,
    )
    body["data"]["subject"] = {"projectId": "p1", "task_id": "t1"}
    assert await house.send(body) == [ACCEPTED]
    (event,) = await house.events()
    assert (event.id, event.source, event.event_time_ns) == ("1", "agents", NOW_NS - 876_543_211)
    assert event.subject.organization_id == "acme"
    assert (event.subject.user_id, event.subject.project_id, event.subject.task_id) == ("u1", "p1", "t1")
    assert event.measurements[0].quantity == 2**53 - 1
    assert event.provider_call is not None
    assert (event.provider_call.tokens_output, event.provider_call.latency_ns) == (5, 1_500_000_000)
    assert (event.reservation_id, event.reservation_final) == ("r1", True)


async def test_the_three_content_modes_are_one_event(house: House) -> None:
    event = usage(measurements=CALLS)
    headers = {name: value for name, value in event.items() if name != "data" and value}
    assert await house.send(event) == [ACCEPTED]
    assert await house.send([event, event], BATCH) == [DUPLICATE, DUPLICATE]
    assert await house.send(event["data"], "application/json", **headers) == [DUPLICATE]
    assert len(await house.events()) == 1


async def test_the_same_id_with_other_content_is_a_conflict(house: House) -> None:
    await house.send(usage(measurements=CALLS))
    assert await house.send(usage(providerCall={"provider": "x"})) == [("CONFLICT", "CONTENT_CONFLICT")]


async def test_events_of_mapped_types_count_on_their_meter(house: House) -> None:
    batch = [
        cloud_event("1", subject="u1"),
        cloud_event("2", "batch", data={"calls": 5}),
        cloud_event("3", "batch", data={"calls": "7"}),
        cloud_event("4", "batch", data={"calls": 5.5}),
        cloud_event("5", "batch", data={"calls": -1}),
        cloud_event("6", "batch", data={"calls": 2**53}),
        cloud_event("7", "batch", data={}),
        cloud_event("8", "unknown"),
    ]
    bad = ("REJECTED", "INVALID_QUANTITY")
    assert await house.send(batch, BATCH) == [ACCEPTED, ACCEPTED, ACCEPTED, bad, bad, bad, bad, INVALID]
    assert [event.measurements[0].quantity for event in await house.events()] == [1, 5, 7]
    assert [event.subject.user_id for event in await house.events()] == ["u1", "", ""]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"measurements": [{"meter": "api_calls", "quantity": 1.0}]}, "INVALID_QUANTITY"),
        ({"measurements": [{"meter": "api_calls", "quantity": float("nan")}]}, "INVALID_QUANTITY"),
        ({"measurements": [{"meter": "api_calls", "quantity": 10**18}]}, "INVALID_QUANTITY"),
        ({"measurements": [{"meter": "api_calls", "quantity": -1}]}, "INVALID_QUANTITY"),
        ({"measurements": [{"meter": "api_calls", "quantity": 10**400}]}, "INVALID_QUANTITY"),
        ({"measurements": [{"meter": "api_calls", "quantity": True}]}, "INVALID_FIELD"),
        ({"measurements": [{"meter": "api_calls", "quantity": "1.0"}]}, "INVALID_QUANTITY"),
        ({"measurements": [{"meter": "api_calls", "quantity": "1e3"}]}, "INVALID_QUANTITY"),
        ({"measurements": [{"meter": "api_calls", "quantity": "1_000"}]}, "INVALID_QUANTITY"),
        ({"provider_call": {"provider": "x", "tokens_output": "5.0"}}, "INVALID_QUANTITY"),
        ({"measurements": [{"meter": "nonsense", "quantity": 1}]}, "UNKNOWN_METER"),
        ({"measurements": CALLS, "prompt": "secret"}, "INVALID_FIELD"),
        ({"measurements": CALLS, "id": "other"}, "INVALID_FIELD"),
        ({"measurements": CALLS, "eventTime": "2026-01-31T12:00:00Z"}, "INVALID_FIELD"),
        ({"measurements": CALLS, "subject": {"userId": "another"}}, "INVALID_FIELD"),
        ({"measurements": CALLS, "subject": []}, "INVALID_FIELD"),
        ({"measurements": "none"}, "INVALID_FIELD"),
        ({"measurements": {}}, "INVALID_FIELD"),
        ({"measurements": [[]]}, "INVALID_FIELD"),
        ({"measurements": [None]}, "INVALID_FIELD"),
        ({"measurements": CALLS, "labels": []}, "INVALID_FIELD"),
        ({"providerCall": {"provider": "x", "latency": "-1s"}}, "INVALID_FIELD"),
        ({"providerCall": {"provider": "x", "latency": 5}}, "INVALID_FIELD"),
        ({}, "INVALID_FIELD"),
    ],
)
async def test_poison_is_refused_at_its_place_and_the_rest_of_the_batch_stands(
    house: House, data: dict[str, Any], reason: str
) -> None:
    poison = cloud_event("2", USAGE, subject="u1", data=data)
    batch = [usage("1", measurements=CALLS), poison, usage("3", measurements=CALLS)]
    assert await house.send(batch, BATCH) == [ACCEPTED, ("REJECTED", reason), ACCEPTED]


async def test_time_is_judged_as_at_every_door(house: House) -> None:
    batch = [
        cloud_event("1", time="2025-12-01T00:00:00Z"),
        cloud_event("2", time="2026-01-31T12:05:01Z"),
        cloud_event("3", time="0001-01-01T00:00:00+23:00"),
    ]
    assert await house.send(batch, BATCH) == [
        ("REJECTED", "EVENT_TOO_OLD"),
        ("REJECTED", "EVENT_IN_FUTURE"),
        ("REJECTED", "EVENT_TOO_OLD"),
    ]


@pytest.mark.parametrize("source", ["otlp", "task-time", "quota", "analytics"])
async def test_nobody_sends_in_the_name_of_a_door_or_a_service(house: House, source: str) -> None:
    assert await house.send([cloud_event("1"), cloud_event("2", source=source)], BATCH) == [ACCEPTED, INVALID]


async def test_a_body_that_is_no_cloudevents_is_an_invalid_argument(house: House) -> None:
    for body, content_type in ((b"{", SINGLE), ({}, BATCH), ({}, "application/json")):
        assert await refusal(house.send(body, content_type)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_a_large_body_keeps_no_other_call_waiting(house: House) -> None:
    answered: list[str] = []

    async def send(name: str, body: bytes) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await house.send(body, BATCH)
        answered.append(name)

    large = asyncio.create_task(send("large", b"[{" + b"," * 3_000_000 + b"}]"))
    while house.keys.look_ups == 0:  # noqa: ASYNC110 - it comes true on the other side of a channel
        await asyncio.sleep(0)
    await asyncio.gather(large, send("small", b"[]"))
    assert answered == ["small", "large"]


async def test_a_large_export_keeps_no_other_call_waiting(house: House) -> None:
    answered: list[str] = []

    async def export(name: str, spans: Sequence[trace_pb2.Span]) -> None:
        await house.export(*spans)
        answered.append(name)

    ignored = trace_pb2.Span(name="x", attributes=attributes({"http.method": "GET"}))
    large = asyncio.create_task(export("large", [ignored] * 300_000))
    while house.keys.look_ups == 0:  # noqa: ASYNC110 - it comes true on the other side of a channel
        await asyncio.sleep(0)
    await asyncio.gather(large, export("small", []))
    assert answered == ["small", "large"]


async def test_an_empty_batch_is_answered_without_results(house: House) -> None:
    assert await house.send([], BATCH) == []


async def test_cloudevents_need_the_scope_and_stay_in_their_organization(house: House) -> None:
    assert (await refusal(house.send(cloud_event(), key="")))[1] == "CREDENTIAL_MISSING"
    assert (await refusal(house.send(cloud_event(), key="tb_live_read")))[1] == "SCOPE_MISSING"
    foreign = usage(measurements=CALLS)
    foreign["data"]["subject"] = {"organizationId": "other"}
    assert (await refusal(house.send(foreign)))[1] == "ORGANIZATION_MISMATCH"
    assert await house.send(cloud_event(), key="tb_admin_1") == [("REJECTED", "ORGANIZATION_REQUIRED")]
    assert await house.events() == []


async def test_a_store_that_is_away_is_unavailable_and_the_retry_counts_once(house: House) -> None:
    house.ledger.trouble = DependencyUnavailable(dependency="Postgres")
    assert (await refusal(house.send(cloud_event())))[0] is grpc.StatusCode.UNAVAILABLE
    house.ledger.trouble = None
    assert [await house.send(cloud_event()) for _ in range(2)] == [[ACCEPTED], [DUPLICATE]]


# ---- OTLP


def attributes(values: dict[str, Any]) -> list[common_pb2.KeyValue]:
    made = []
    for key, value in values.items():
        match value:
            case str():
                held = common_pb2.AnyValue(string_value=value)
            case bool():
                held = common_pb2.AnyValue(bool_value=value)
            case int():
                held = common_pb2.AnyValue(int_value=value)
            case float():
                held = common_pb2.AnyValue(double_value=value)
            case _:
                items = [common_pb2.AnyValue(string_value=str(each)) for each in value]
                held = common_pb2.AnyValue(array_value=common_pb2.ArrayValue(values=items))
        made.append(common_pb2.KeyValue(key=key, value=held))
    return made


CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.usage.input_tokens": 2006,
    "gen_ai.usage.cache_read.input_tokens": 1920,
    "gen_ai.usage.output_tokens": 300,
}


def span(number: int = 1, values: dict[str, Any] | None = None, **fields: Any) -> trace_pb2.Span:
    known: dict[str, Any] = {
        "trace_id": b"\1" * 16,
        "span_id": number.to_bytes(8, "big"),
        "start_time_unix_nano": NOW_NS - 1_500_000_000,
        "end_time_unix_nano": NOW_NS - 1,
        "attributes": attributes(CHAT if values is None else values),
    }
    return trace_pb2.Span(**(known | fields))


async def test_a_span_of_a_model_call_is_recorded_once_with_disjoint_token_classes(house: House) -> None:
    for _ in range(2):
        assert await house.export(span()) == (0, "")
    (event,) = await house.events()
    assert (event.source, event.id) == ("otlp", f"{'01' * 16}:0000000000000001")
    assert (event.subject.organization_id, event.subject.project_id) == ("acme", "p1")
    assert event.event_time_ns == NOW_NS - 1
    assert {each.meter: each.quantity for each in event.measurements} == {
        "api_calls": 1,
        "tokens_cache_read": 1920,
        "tokens_input": 86,
        "tokens_output": 300,
    }
    call = event.provider_call
    assert call is not None
    assert (call.tokens_input_uncached, call.tokens_cache_read, call.tokens_output) == (86, 1920, 300)
    assert (call.latency_ns, call.outcome) == (1_499_999_999, metering_pb2.OUTCOME_SUCCESS)


async def test_a_call_recorded_before_the_door_measured_calls_stays_one_duplicate_and_adds_nothing(
    house: House,
) -> None:
    await house.export(span(1))
    (measured,) = await house.events()
    await house.ledger.append([replace(measured, id=measured.id[:-1] + "2", measurements=())], now=NOW)
    assert await house.export(span(1), span(2)) == (0, "")
    assert [len(event.measurements) for event in await house.events()] == [4, 0]


async def test_a_call_counts_once_on_its_own_meter_and_once_on_a_meter_of_calls_and_its_reversal_takes_both_back(
    house: House,
) -> None:
    of_calls = Meter(
        name="output_of_calls",
        base_unit="token",
        display_unit="token",
        base_units_per_display_unit=1,
        value_source=ValueSource.TOKENS_OUTPUT,
    )
    calls = replace(of_calls, name="calls", value_source=ValueSource.CALLS)
    await house.meters.add(MeterRequest("1", of_calls))
    await house.meters.add(MeterRequest("2", calls))
    for _ in range(2):
        await house.export(span(1), span(2))
    assert await house.totals() == {
        "api_calls": 2,
        "calls": 2,
        "output_of_calls": 600,
        "tokens_cache_read": 3840,
        "tokens_input": 172,
        "tokens_output": 600,
    }
    first, second = await house.events()
    for number, taken_back in enumerate((first, second)):
        reversal = UsageEvent(
            id=f"reversal-{number}",
            source="tests",
            subject=Subject(organization_id="acme"),
            event_time_ns=None,
            measurements=(),
            reversal_of=EventRef("otlp", taken_back.id),
        )
        await house.ledger.append([reversal], now=NOW)
    assert await house.totals() == {}


@pytest.mark.parametrize("name", ["ann@example.org", "Ann Example", "ann example", "a\tb"])
async def test_a_user_that_is_no_surrogate_is_refused_at_every_door(house: House, name: str) -> None:
    by_attribute = usage("1", measurements=CALLS) | {"subject": name}
    by_data = usage("2", measurements=CALLS)
    by_data["data"]["subject"] = {"userId": name}
    assert await house.send([by_attribute, by_data], BATCH) == [("REJECTED", "INVALID_FIELD")] * 2
    for key in ("tollbook.user_id", "enduser.pseudo.id"):
        rejected, message = await house.export(span(1, CHAT | {key: name}))
        assert (rejected, message.startswith("INVALID_FIELD: subject.user_id: ")) == (1, True)
    assert await refusal(house.report(user_id=name)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert await house.entries() == []


async def test_prompts_and_contents_leave_no_trace(house: House) -> None:
    secret = "the customer's words"
    contents = {
        "gen_ai.prompt": secret,
        "gen_ai.completion": secret,
        "gen_ai.input.messages": [secret],
        "gen_ai.output.messages": secret,
        "gen_ai.system_instructions": [secret],
        "gen_ai.tool.call.arguments": secret,
        "user.email": secret,
    }
    told = trace_pb2.Span.Event(name="gen_ai.content.prompt", attributes=attributes(contents))
    await house.export(span(1, CHAT | contents, name=secret, events=[told]))
    (entry,) = await house.entries()
    assert secret not in repr(entry)


async def test_spans_without_a_model_call_are_ignored(house: House) -> None:
    agent = span(2, CHAT | {"gen_ai.operation.name": "invoke_agent"})
    assert await house.export(span(1, {"http.request.method": "GET"}), agent, span(3, {})) == (0, "")
    assert await house.events() == []


async def test_a_failed_call_is_recorded_with_its_error(house: House) -> None:
    status = trace_pb2.Status(code=trace_pb2.Status.STATUS_CODE_ERROR, message="secret")
    await house.export(span(1, {**CHAT, "error.type": "timeout"}, status=status))
    (event,) = await house.events()
    assert event.provider_call is not None
    assert (event.provider_call.outcome, event.provider_call.error_code) == (metering_pb2.OUTCOME_FAILURE, "timeout")


async def test_refused_spans_are_counted_with_the_first_reason_and_the_others_stand(house: House) -> None:
    rejected, message = await house.export(
        span(1),
        span(2, CHAT | {"gen_ai.usage.cache_read.input_tokens": 9999}),
        span(3, CHAT | {"gen_ai.usage.input_tokens": 1.5}),
        span(4, end_time_unix_nano=NOW_NS - 36 * 86_400 * 10**9),
        span(5, end_time_unix_nano=0),
        span(6, trace_id=b""),
        span(7, CHAT | {"tollbook.task_id": "not an id"}),
        span(8),
    )
    assert rejected == 6
    assert message.startswith("INVALID_QUANTITY: gen_ai.usage.input_tokens: ")
    assert "span 0000000000000002" in message
    assert [event.id[-1] for event in await house.events()] == ["1", "8"]


async def test_a_span_with_other_content_under_the_same_ids_is_counted_as_refused(house: House) -> None:
    await house.export(span(1))
    rejected, message = await house.export(span(1, CHAT | {"gen_ai.usage.output_tokens": 1}), span(2))
    assert (rejected, message.partition(":")[0]) == (1, "CONTENT_CONFLICT")


async def test_more_spans_than_one_batch_holds_are_all_recorded(house: House) -> None:
    count = limits.BATCH_EVENTS_MAX + 1
    assert await house.export(*(span(number) for number in range(1, count + 1))) == (0, "")
    assert len(await house.events()) == count


async def test_of_the_log_records_of_a_call_the_one_with_the_usage_is_recorded(house: House) -> None:
    ids: dict[str, Any] = {"trace_id": b"\1" * 16, "span_id": b"\2" * 8, "time_unix_nano": NOW_NS}
    message = logs_pb2.LogRecord(
        **ids,
        event_name="gen_ai.user.message",
        attributes=attributes({"gen_ai.system": "openai", "gen_ai.request.model": "gpt-4o"}),
        body=common_pb2.AnyValue(string_value="the customer's words"),
    )
    details = logs_pb2.LogRecord(
        **ids, event_name="gen_ai.client.inference.operation.details", attributes=attributes(CHAT)
    )
    request = logs_service_pb2.ExportLogsServiceRequest(
        resource_logs=[logs_pb2.ResourceLogs(scope_logs=[logs_pb2.ScopeLogs(log_records=[message, details])])]
    )
    stub = logs_service_pb2_grpc.LogsServiceStub(house.channel)  # type: ignore[no-untyped-call]
    answer = await stub.Export(request, metadata=as_("tb_live_acme"))
    assert not answer.HasField("partial_success")
    (entry,) = await house.entries()
    assert entry.event.provider_call is not None
    assert entry.event.provider_call.latency_ns is None
    assert "customer's words" not in repr(entry)
    # The span of the same call has the same identity: it is refused, and the call stays counted once.
    rejected, _ = await house.export(span(int.from_bytes(b"\2" * 8, "big")))
    assert (rejected, len(await house.events())) == (1, 1)


async def test_refused_log_records_are_counted(house: House) -> None:
    record = logs_pb2.LogRecord(time_unix_nano=NOW_NS, attributes=attributes(CHAT))
    request = logs_service_pb2.ExportLogsServiceRequest(
        resource_logs=[logs_pb2.ResourceLogs(scope_logs=[logs_pb2.ScopeLogs(log_records=[record])])]
    )
    stub = logs_service_pb2_grpc.LogsServiceStub(house.channel)  # type: ignore[no-untyped-call]
    partial = (await stub.Export(request, metadata=as_("tb_live_acme"))).partial_success
    assert partial.rejected_log_records == 1
    assert "trace_id" in partial.error_message


async def test_otlp_needs_the_scope_and_a_key_of_an_organization(house: House) -> None:
    assert await refusal(house.export(span(), key="")) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING")
    assert (await refusal(house.export(span(), key="tb_live_read")))[1] == "SCOPE_MISSING"
    assert (await refusal(house.export(span(), key="tb_admin_1")))[1] == "ORGANIZATION_REQUIRED"
    assert await house.events() == []


async def test_an_export_while_the_store_is_away_is_told_to_come_again(house: House) -> None:
    house.ledger.trouble = DependencyUnavailable(dependency="Postgres")
    assert (await refusal(house.export(span())))[0] is grpc.StatusCode.UNAVAILABLE


# ---- Task time


def task_report(
    second: float = 0, phase: str = "HEARTBEAT", outcome: str = "UNSPECIFIED", **subject: str
) -> task_time_pb2.ReportTaskTimeRequest:
    reservation_id = subject.pop("reservation_id", "")
    request = task_time_pb2.ReportTaskTimeRequest(
        subject=metering_pb2.Subject(**({"task_id": "t1"} | subject)),
        phase=task_time_pb2.TaskPhase.Value(f"TASK_PHASE_{phase}"),
        task_outcome=metering_pb2.TaskOutcome.Value(f"TASK_OUTCOME_{outcome}"),
        reservation_id=reservation_id,
    )
    request.report_time.FromNanoseconds(NOW_NS - 3_600 * 10**9 + round(second * 10**9))
    return request


async def test_a_tasks_time_is_recorded_as_it_passes(house: House) -> None:
    totals = [
        (await house.report(second=0, phase="START", reservation_id="r1")).total_milliseconds,
        (await house.report(second=10, reservation_id="r1", project_id="p1")).total_milliseconds,
    ]
    answer = await house.report(second=14.9999, phase="END", outcome="FAILED", reservation_id="r1")
    assert (*totals, answer.total_milliseconds) == (0, 10_000, 14_999)
    assert answer.status == task_time_pb2.TASK_REPORT_STATUS_RECORDED
    assert (answer.added_milliseconds, answer.sequence) == (4_999, 2)
    heartbeat, end = await house.events()
    assert (heartbeat.source, heartbeat.subject.project_id) == ("task-time", "p1")
    assert (heartbeat.reservation_final, end.reservation_final) == (False, True)
    assert end.task_outcome == metering_pb2.TASK_OUTCOME_FAILED


async def test_each_report_says_what_became_of_it(house: House) -> None:
    await house.report(second=0, phase="START")
    await house.report(second=10, phase="END", outcome="SUCCEEDED")
    for second, status in ((5, "COVERED"), (20, "AFTER_END")):
        answer = await house.report(second=second)
        assert task_time_pb2.TaskReportStatus.Name(answer.status) == f"TASK_REPORT_STATUS_{status}"
        assert (answer.added_milliseconds, answer.total_milliseconds, answer.sequence) == (0, 10_000, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"phase": "UNSPECIFIED"},
        {"task_id": ""},
        {"task_id": "not an id"},
        {"phase": "END"},
        {"phase": "HEARTBEAT", "outcome": "FAILED"},
        {"project_id": "not an id"},
        {"reservation_id": "not an id"},
    ],
)
async def test_an_unsound_report_is_refused(house: House, fields: dict[str, str]) -> None:
    assert await refusal(house.report(**fields)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_a_report_needs_a_time_that_the_ledger_would_take(house: House) -> None:
    stub = task_time_pb2_grpc.TaskTimeServiceStub(house.channel)
    timeless = task_report()
    timeless.ClearField("report_time")
    assert (await refusal(stub.ReportTaskTime(timeless, metadata=as_("tb_live_acme"))))[1] == "INVALID_FIELD"
    assert (await refusal(house.report(second=3_600 + 301)))[1] == "EVENT_IN_FUTURE"
    house.clock.advance(timedelta(days=35))
    assert (await refusal(house.report(second=0)))[1] == "EVENT_TOO_OLD"
    await house.report(second=3_600)


async def test_reports_need_the_scope_and_stay_in_their_organization(house: House) -> None:
    assert (await refusal(house.report(key="tb_live_read")))[1] == "SCOPE_MISSING"
    assert (await refusal(house.report(organization_id="other")))[1] == "ORGANIZATION_MISMATCH"
    assert (await refusal(house.report(key="tb_admin_1")))[1] == "ORGANIZATION_REQUIRED"
    assert (await refusal(house.report(key="tb_admin_1", organization_id="nobody")))[1] == "ORGANIZATION_NOT_FOUND"
    await house.report(key="tb_admin_1", organization_id="acme")
