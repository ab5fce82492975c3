"""The SDK's calls over a real server and channel: what failures look like to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from kit.grpc.errors import status_to_pb
from tollbook.metering.v1 import metering_pb2
from tollbook_sdk import AsyncTollbook, OnUnavailable, Settings
from tollbook_sdk.grpc_suite import GrpcSuite
from tollbook_sdk.suite import CallFailed

_SECONDS = 30.0


class Metering:
    """Answers what the test wants, and notes who asks."""

    def __init__(self) -> None:
        self.status: grpc.Status | None = None
        self.authorizations: list[Any] = []
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.answer.set()
        self.batches: list[list[str]] = []
        self.breaks_after = 0

    async def record_usage(self, request: Any, context: Any) -> metering_pb2.RecordUsageResponse:
        self.authorizations.append(dict(context.invocation_metadata()).get("authorization"))
        self.asked.set()
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.status is not None:
            await context.abort_with_status(self.status)
        return metering_pb2.RecordUsageResponse(results=[metering_pb2.EventResult(sequence=7)])

    async def stream_usage(
        self, requests: AsyncIterator[metering_pb2.StreamUsageRequest], context: Any
    ) -> AsyncIterator[metering_pb2.StreamUsageResponse]:
        self.authorizations.append(dict(context.invocation_metadata()).get("authorization"))
        async for request in requests:
            self.batches.append([event.id for event in request.events])
            yield metering_pb2.StreamUsageResponse(batch_number=request.batch_number, last_sequence=len(self.batches))
            if len(self.batches) == self.breaks_after:
                await context.abort_with_status(self.status)
        self.asked.set()
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@asynccontextmanager
async def serving(metering: Metering) -> AsyncIterator[GrpcSuite]:
    server = grpc.aio.server()
    record = grpc.unary_unary_rpc_method_handler(
        metering.record_usage,
        request_deserializer=metering_pb2.RecordUsageRequest.FromString,
        response_serializer=metering_pb2.RecordUsageResponse.SerializeToString,
    )
    stream = grpc.stream_stream_rpc_method_handler(
        metering.stream_usage,
        request_deserializer=metering_pb2.StreamUsageRequest.FromString,
        response_serializer=metering_pb2.StreamUsageResponse.SerializeToString,
    )
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"RecordUsage": record, "StreamUsage": stream}
    service = "tollbook.metering.v1.MeteringService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    suite = GrpcSuite(Settings(quota=address, metering=address, key="tb_live_k"))
    try:
        yield suite
    finally:
        suite.close()
        await server.stop(None)


async def test_a_call_carries_the_key_and_brings_the_answer() -> None:
    metering = Metering()
    async with serving(metering) as suite:
        answer = await suite.record(metering_pb2.RecordUsageRequest(), seconds=_SECONDS)
        assert (answer.results[0].sequence, metering.authorizations) == (7, ["Bearer tb_live_k"])


async def test_a_failure_brings_its_reason_and_the_delay_that_it_asks_for() -> None:
    metering = Metering()
    delay = timedelta(seconds=2.5)
    metering.status = rpc_status.to_status(
        status_to_pb("RESOURCE_EXHAUSTED", "DEPENDENCY_UNAVAILABLE", "busy", "r-1", retry_delay=delay)
    )
    async with serving(metering) as suite:
        with pytest.raises(CallFailed) as failed:
            await suite.record(metering_pb2.RecordUsageRequest(), seconds=_SECONDS)
    found = failed.value
    assert (found.code, found.reason, found.message) == ("RESOURCE_EXHAUSTED", "DEPENDENCY_UNAVAILABLE", "busy")
    assert (found.retry_seconds, found.passes) == (2.5, True)


async def test_who_stops_waiting_cancels_the_call() -> None:
    metering = Metering()
    metering.answer.clear()
    async with serving(metering) as suite, asyncio.timeout(_SECONDS):
        calling = asyncio.ensure_future(suite.record(metering_pb2.RecordUsageRequest(), seconds=_SECONDS))
        await metering.asked.wait()
        calling.cancel()
        await metering.cancelled.wait()


def batches(count: int) -> list[metering_pb2.StreamUsageRequest]:
    return [
        metering_pb2.StreamUsageRequest(batch_number=number, events=[metering_pb2.UsageEvent(id=f"e-{number}")])
        for number in range(1, count + 1)
    ]


async def test_a_stream_carries_the_key_and_all_batches_and_brings_each_acknowledgement() -> None:
    metering = Metering()
    async with serving(metering) as suite, asyncio.timeout(_SECONDS):
        answers = [answer async for answer in suite.stream(batches(3), seconds=_SECONDS)]
    assert [(each.batch_number, each.last_sequence) for each in answers] == [(1, 1), (2, 2), (3, 3)]
    assert (metering.batches, metering.authorizations) == ([["e-1"], ["e-2"], ["e-3"]], ["Bearer tb_live_k"])


async def test_a_stream_that_breaks_has_brought_what_was_acknowledged_and_says_why() -> None:
    metering = Metering()
    metering.breaks_after = 2
    metering.status = rpc_status.to_status(status_to_pb("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE", "busy", "r-1"))
    answers: list[int] = []

    async def listen(suite: GrpcSuite) -> None:
        async for answer in suite.stream(batches(3), seconds=_SECONDS):
            answers.append(answer.batch_number)  # noqa: PERF401 - it raises in the middle

    async with serving(metering) as suite, asyncio.timeout(_SECONDS):
        with pytest.raises(CallFailed) as failed:
            await listen(suite)
    assert (answers, failed.value.reason, failed.value.passes) == ([1, 2], "DEPENDENCY_UNAVAILABLE", True)


async def test_who_stops_listening_cancels_the_stream() -> None:
    metering = Metering()
    metering.answer.clear()
    async with serving(metering) as suite, asyncio.timeout(_SECONDS):
        async with aclosing(suite.stream(batches(1), seconds=_SECONDS)) as answers:
            async for _ in answers:
                await metering.asked.wait()
                break
        await metering.cancelled.wait()


async def test_a_stream_on_a_closed_suite_fails_as_one_that_can_be_repeated() -> None:
    async with serving(Metering()) as suite:
        suite.close()
        with pytest.raises(CallFailed) as failed:
            async for _ in suite.stream(batches(1), seconds=_SECONDS):
                pass
    assert failed.value.passes


async def test_a_call_on_a_closed_suite_fails_as_one_that_can_be_repeated() -> None:
    async with serving(Metering()) as suite:
        suite.close()
        with pytest.raises(CallFailed) as failed:
            await suite.record(metering_pb2.RecordUsageRequest(), seconds=_SECONDS)
    assert failed.value.passes


@pytest.mark.parametrize("policy", list(OnUnavailable))
async def test_a_server_that_takes_connections_and_never_answers_costs_a_check_its_budget_and_no_more(
    policy: OnUnavailable,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        address = f"127.0.0.1:{black_hole.getsockname()[1]}"
        settings = Settings(quota=address, metering=address, on_unavailable=policy, close_seconds=0.1)
        # Waiting for ever is what the timeout would tell of.
        async with asyncio.timeout(_SECONDS), AsyncTollbook(settings) as client:
            decision = await client.check({"api_calls": 1}, hold=timedelta(seconds=5))
        assert (decision.allowed, decision.degraded) == (policy is OnUnavailable.ALLOW, True)
