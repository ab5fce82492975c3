"""The other doors into the ledger, as their users come in: REST, OpenTelemetry's own exporter, an orchestrator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.trace import set_span_in_context

from services.metering.domain.task_time import METER
from tests.e2e.running_suite import RunningSuite, Tenant, call
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc, task_time_pb2, task_time_pb2_grpc

_BATCH = {"content-type": "application/cloudevents-batch+json"}


class RememberingExporter(OTLPSpanExporter):
    """Remembers how each export went."""

    results: list[SpanExportResult]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self.results = [*getattr(self, "results", []), result]
        return result


def _totals(suite: RunningSuite, tenant: Tenant) -> dict[str, int]:
    return {row.meter: row.quantity for row in suite.recorded(tenant).rows if row.quantity}


def test_cloudevents_over_rest_are_recorded_once_and_refused_one_by_one(suite: RunningSuite, tenant: Tenant) -> None:
    sound = {
        "specversion": "1.0",
        "type": "dev.tollbook.usage.v1",
        "source": "e2e",
        "id": "1",
        "time": datetime.now(UTC).isoformat(),
        "subject": "u1",
        "data": {"measurements": [{"meter": "api_calls", "quantity": 5}]},
    }
    poison = sound | {"id": "2", "data": {"measurements": [{"meter": "api_calls", "quantity": 1.5}]}}
    with suite.rest(tenant.key) as rest:
        answers = [rest.post("/api/v1/cloudevents", json=[sound, poison], headers=_BATCH) for _ in range(2)]
        refused = rest.post("/api/v1/cloudevents", json={"events": []})
    assert [answer.status_code for answer in (*answers, refused)] == [200, 200, 400]
    statuses = [[result["status"] for result in answer.json()["results"]] for answer in answers]
    assert statuses == [
        ["EVENT_STATUS_ACCEPTED", "EVENT_STATUS_REJECTED"],
        ["EVENT_STATUS_DUPLICATE", "EVENT_STATUS_REJECTED"],
    ]
    assert answers[0].json()["results"][1]["reason"] == "ERROR_REASON_INVALID_QUANTITY"
    assert _totals(suite, tenant) == {"api_calls": 5}


def test_cloudevents_without_a_key_are_refused(suite: RunningSuite) -> None:
    with suite.rest(None) as rest:
        assert rest.post("/api/v1/cloudevents", json=[], headers=_BATCH).status_code == 401


def test_opentelemetrys_own_exporter_brings_model_calls_into_the_ledger(suite: RunningSuite, tenant: Tenant) -> None:
    exporter = RememberingExporter(
        endpoint=suite.endpoints()["metering"], insecure=True, headers=(("authorization", f"Bearer {tenant.key}"),)
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("e2e")
    usage: dict[str, str | int] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
    }
    agent = tracer.start_span("invoke_agent", attributes=usage | {"gen_ai.operation.name": "invoke_agent"})
    tracer.start_span("chat gpt-4o", attributes=usage, context=set_span_in_context(agent)).end()
    agent.end()
    provider.shutdown()
    assert exporter.results == [SpanExportResult.SUCCESS] * 2
    assert suite.recorded(tenant).as_of_sequence == 1
    assert _totals(suite, tenant) == {"api_calls": 1, "tokens_input": 10, "tokens_output": 5}


def test_heartbeats_of_a_task_become_agent_minutes(suite: RunningSuite, tenant: Tenant) -> None:
    stub = task_time_pb2_grpc.TaskTimeServiceStub(suite.channel("metering"))
    start = datetime.now(UTC) - timedelta(minutes=1)
    phases = [
        (0, task_time_pb2.TASK_PHASE_START),
        (10, task_time_pb2.TASK_PHASE_HEARTBEAT),
        (10, task_time_pb2.TASK_PHASE_HEARTBEAT),
        (20, task_time_pb2.TASK_PHASE_HEARTBEAT),
        (24, task_time_pb2.TASK_PHASE_END),
    ]
    totals: list[int] = []
    for second, phase in phases:
        ends = phase == task_time_pb2.TASK_PHASE_END
        request = task_time_pb2.ReportTaskTimeRequest(
            subject=metering_pb2.Subject(task_id="t1"),
            phase=phase,
            task_outcome=metering_pb2.TASK_OUTCOME_SUCCEEDED if ends else metering_pb2.TASK_OUTCOME_UNSPECIFIED,
        )
        request.report_time.FromDatetime(start + timedelta(seconds=second))
        totals.append(call(stub.ReportTaskTime, request, key=tenant.key).total_milliseconds)
    assert totals == [0, 10_000, 10_000, 20_000, 24_000]
    assert _totals(suite, tenant) == {METER: 24_000}


def test_heartbeats_over_rest_become_agent_minutes(suite: RunningSuite, tenant: Tenant) -> None:
    start = datetime.now(UTC) - timedelta(minutes=1)
    reports = [
        {"phase": "TASK_PHASE_START"},
        {"phase": "TASK_PHASE_HEARTBEAT"},
        {"phase": "TASK_PHASE_END", "taskOutcome": "TASK_OUTCOME_FAILED"},
    ]
    with suite.rest(tenant.key) as rest:
        answers = [
            rest.post(
                "/api/v1/task-time",
                json=report
                | {"subject": {"taskId": "t1"}, "reportTime": (start + timedelta(seconds=7 * number)).isoformat()},
            )
            for number, report in enumerate(reports)
        ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.json()["totalMilliseconds"] for answer in answers] == ["0", "7000", "14000"]
    assert _totals(suite, tenant) == {METER: 14_000}
    with suite.rest(None) as rest:
        assert rest.post("/api/v1/task-time", json=reports[0]).status_code == 401


def test_the_largest_quantity_is_exact_through_every_door_and_in_totals_above_it(
    suite: RunningSuite, tenant: Tenant
) -> None:
    """B11: 2^53 - 1 as a number and as text over REST and CloudEvents, over gRPC, and five of them in one total."""
    largest = 2**53 - 1
    now = datetime.now(UTC).isoformat()
    quantities: list[int | str] = [largest, str(largest)]
    events = [
        {"id": f"rest-{place}", "source": "e2e", "eventTime": now, "measurements": measured(quantity)}
        for place, quantity in enumerate(quantities)
    ]
    too_large = {"id": "too large", "source": "e2e", "eventTime": now, "measurements": measured(largest + 1)}
    cloudevents = [
        {
            "specversion": "1.0",
            "type": "dev.tollbook.usage.v1",
            "source": "e2e",
            "id": f"cloudevent-{place}",
            "time": now,
            "data": {"measurements": measured(quantity)},
        }
        for place, quantity in enumerate(quantities)
    ]
    event = metering_pb2.UsageEvent(
        id="grpc", source="e2e", measurements=[metering_pb2.Measurement(meter="tokens_output", quantity=largest)]
    )
    event.event_time.GetCurrentTime()
    stub = metering_pb2_grpc.MeteringServiceStub(suite.channel("metering"))
    call(stub.RecordUsage, metering_pb2.RecordUsageRequest(events=[event]), key=tenant.key)
    with suite.rest(tenant.key) as rest:
        statuses = [
            result["status"]
            for answer in (
                rest.post("/api/v1/usage", json={"events": [*events, too_large]}),
                rest.post("/api/v1/cloudevents", json=cloudevents, headers=_BATCH),
            )
            for result in answer.json()["results"]
        ]
        rows = rest.get("/api/v1/usage").json()["rows"]
    accepted, rejected = "EVENT_STATUS_ACCEPTED", "EVENT_STATUS_REJECTED"
    assert statuses == [accepted, accepted, rejected, accepted, accepted]
    assert {row["meter"]: row["quantity"] for row in rows} == {"tokens_output": str(5 * largest)}
    assert _totals(suite, tenant) == {"tokens_output": 5 * largest}


def measured(quantity: int | str) -> list[dict[str, int | str]]:
    return [{"meter": "tokens_output", "quantity": quantity}]


@pytest.mark.parametrize("time", [1700000000.1, 1700000000, "1700000000.2", "2026-01-31T12:00:00", "yesterday"])
def test_a_rest_event_whose_time_is_a_number_or_has_no_zone_is_refused_with_its_request(
    suite: RunningSuite, tenant: Tenant, time: object
) -> None:
    """B6."""
    event = {"id": "1", "source": "e2e", "eventTime": time, "measurements": measured(1)}
    with suite.rest(tenant.key) as rest:
        assert rest.post("/api/v1/usage", json={"events": [event]}).status_code == 400
    assert _totals(suite, tenant) == {}
