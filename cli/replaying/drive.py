"""The work itself: for each task ask, and if it may run, record what it used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cli.replaying.customer import Customer
from cli.replaying.errors import ReplayFailed
from cli.replaying.workload import Task
from cli.rpc import PATIENCE_SECONDS, call
from tollbook.errors.v1 import errors_pb2
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

METER = "agent_minutes"
_SOURCE = "replay"
_RESERVE_SECONDS = 15 * 60
_PAUSE_SECONDS = 0.1

_RECORDED = frozenset({metering_pb2.EVENT_STATUS_ACCEPTED, metering_pb2.EVENT_STATUS_DUPLICATE})


@dataclass(kw_only=True, slots=True)
class Driven:
    """What was asked and answered."""

    allowed: int = 0
    denied: int = 0
    agent_ms: int = 0
    """The agent time of the tasks that were allowed, and so recorded."""
    check_seconds: list[float] = field(default_factory=list)
    """How long each check took its caller, retries included."""


async def drive(customer: Customer, tasks: Iterable[Task], on_done: Callable[[], None]) -> Driven:
    """Runs the tasks one after another, calling `on_done` after each. Raises ReplayFailed and CallFailed."""
    metering = metering_pb2_grpc.MeteringServiceStub(customer.own.to("metering"))
    driven = Driven()
    for task in tasks:
        began = time.perf_counter()
        answer = await _decision(customer, task)
        driven.check_seconds.append(time.perf_counter() - began)
        match answer.decision:
            case quota_pb2.DECISION_DENIED:
                _refuse_other_denials(customer, task, answer)
                driven.denied += 1
            case quota_pb2.DECISION_ALLOWED | quota_pb2.DECISION_ALLOWED_IN_GRACE:
                event = _event(customer, task, answer.reservation_id)
                recorded = await call(metering.RecordUsage, metering_pb2.RecordUsageRequest(events=[event]))
                _refuse_unrecorded(customer, task, recorded)
                driven.allowed += 1
                driven.agent_ms += task.agent_ms
            case other:
                msg = f"{_place(customer, task)}: quota decided {other}, which is neither allowed nor denied"
                raise ReplayFailed(msg)
        on_done()
    return driven


async def _decision(customer: Customer, task: Task) -> quota_pb2.CheckResponse:
    """What the counters say. An answer without them is asked for again: the replay is exact or it fails."""
    quota = quota_pb2_grpc.QuotaServiceStub(customer.own.to("quota"))
    now = asyncio.get_running_loop().time
    give_up_at = now() + PATIENCE_SECONDS
    while True:
        answer = await call(quota.Check, _check(customer, task))
        if not (answer.degraded or answer.deny_reason == quota_pb2.DENY_REASON_STORE_UNAVAILABLE):
            return answer
        if now() >= give_up_at:
            msg = f"{_place(customer, task)}: for {PATIENCE_SECONDS:.0f} s quota could not reach its counters"
            raise ReplayFailed(msg)
        await asyncio.sleep(_PAUSE_SECONDS)


def _check(customer: Customer, task: Task) -> quota_pb2.CheckRequest:
    return quota_pb2.CheckRequest(
        request_id=_id(customer, task),
        subject=_subject(customer, task),
        consumptions=[quota_pb2.Consumption(meter=METER, quantity=task.agent_ms)],
        mode=quota_pb2.CHECK_MODE_RESERVE,
        reserve_duration=Duration(seconds=_RESERVE_SECONDS),
    )


def _event(customer: Customer, task: Task, reservation_id: str) -> metering_pb2.UsageEvent:
    event_time = Timestamp()
    event_time.FromNanoseconds(customer.period_start.ToNanoseconds() + task.offset_nanoseconds)
    quantities = {
        METER: task.agent_ms,
        "api_calls": 1,
        "tokens_input": task.tokens_input,
        "tokens_output": task.tokens_output,
    }
    return metering_pb2.UsageEvent(
        id=_id(customer, task),
        source=_SOURCE,
        subject=_subject(customer, task),
        event_time=event_time,
        measurements=[metering_pb2.Measurement(meter=name, quantity=count) for name, count in quantities.items()],
        provider_call=metering_pb2.ProviderCall(
            provider=task.provider,
            operation="completion",
            tokens_input_uncached=task.tokens_input,
            tokens_output=task.tokens_output,
            outcome=metering_pb2.OUTCOME_SUCCESS,
        ),
        reservation_id=reservation_id,
        reservation_final=True,
    )


def _subject(customer: Customer, task: Task) -> metering_pb2.Subject:
    return metering_pb2.Subject(organization_id=customer.organization_id, task_id=f"task-{task.row}")


def _id(customer: Customer, task: Task) -> str:
    return f"replay-{customer.run_id}-{task.row}"


def _place(customer: Customer, task: Task) -> str:
    return f"row {task.row} of organization {customer.name}"


def _refuse_other_denials(customer: Customer, task: Task, answer: quota_pb2.CheckResponse) -> None:
    # A reached limit is a result. Any other denial comes from the state of the suite, not from the trace.
    if answer.deny_reason != quota_pb2.DENY_REASON_LIMIT_REACHED:
        reason = quota_pb2.DenyReason.Name(answer.deny_reason)
        msg = f"{_place(customer, task)}: denied with {reason}: {answer.message}"
        raise ReplayFailed(msg)


def _refuse_unrecorded(customer: Customer, task: Task, answer: metering_pb2.RecordUsageResponse) -> None:
    statuses = [result.status for result in answer.results]
    if len(statuses) == 1 and statuses[0] in _RECORDED:
        return
    why = "; ".join(
        f"{metering_pb2.EventStatus.Name(result.status)} ({errors_pb2.ErrorReason.Name(result.reason)}): "
        f"{result.message}"
        for result in answer.results
    )
    msg = f"{_place(customer, task)}: its usage was not recorded: {why or 'no result'}"
    raise ReplayFailed(msg)
