"""StreamUsage over a real server and channel."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import grpc
import pytest

from kit.clock import SystemClock
from kit.errors import DependencyUnavailable
from kit.grpc import server
from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.errors import reason_of, retry_delay_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.testing.servers import KnownKeys, serving, serving_at
from kit.testing.toxic import Toxic, ToxicProxy
from services.metering.adapters.memory import MemoryMeterCatalog
from services.metering.application.commit_batches import CommitBatches
from services.metering.application.stream_usage import StreamUsage
from services.metering.domain import limits
from services.metering.domain.meters import Meter
from services.metering.rpc.usage_streams import UsageStreams
from tests.held_ledger import HeldLedger
from tests.metering_house import every_organization, metering_servicer
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc

KEYS = {
    "tb_live_acme": Principal(CallerKind.TENANT, "key-1", "acme", TENANT_SCOPES),
    "tb_admin_1": Principal(CallerKind.ADMIN, "admin"),
}


class Edge:
    """A served metering of which the test holds the parts."""

    def __init__(self) -> None:
        self.ledger = HeldLedger()
        self.ledger.holds = False
        self.keys = KnownKeys(KEYS)
        catalog = MemoryMeterCatalog(
            Meter(name="api_calls", base_unit="call", display_unit="call", base_units_per_display_unit=1)
        )
        self.batches = CommitBatches(self.ledger, kind="events", transactions=1)
        self.streams = UsageStreams(StreamUsage(self.batches, catalog, SystemClock()), every_organization)

        async def prepare() -> None:
            return None

        self.application = Application(
            authenticator=Authenticator(self.keys, {}),
            servicers=[metering_servicer(self.ledger, catalog, batches=self.batches, streams=self.streams)],
            prepare=prepare,
            drain=self.streams.drain,
        )
        self.stub: metering_pb2_grpc.MeteringServiceAsyncStub

    def stream(self, *, as_admin: bool = False) -> Stream:
        key = "tb_admin_1" if as_admin else "tb_live_acme"
        return Stream(self.stub.StreamUsage(metadata=(("authorization", f"Bearer {key}"),)))

    async def record(self, *events: metering_pb2.UsageEvent) -> metering_pb2.RecordUsageResponse:
        request = metering_pb2.RecordUsageRequest(events=events)
        return await self.stub.RecordUsage(request, metadata=(("authorization", "Bearer tb_live_acme"),))

    def end_transaction(self) -> None:
        self.ledger.begun[-1].may_end.set_result(None)


class Stream:
    """The client's side of one stream."""

    def __init__(
        self, call: grpc.aio.StreamStreamCall[metering_pb2.StreamUsageRequest, metering_pb2.StreamUsageResponse]
    ) -> None:
        self.call = call

    async def send(self, number: int, *events: metering_pb2.UsageEvent) -> None:
        await self.call.write(metering_pb2.StreamUsageRequest(batch_number=number, events=events))

    async def read(self) -> metering_pb2.StreamUsageResponse:
        answer = await self.call.read()
        assert isinstance(answer, metering_pb2.StreamUsageResponse), "the stream has ended"
        return answer

    async def acknowledge(self, number: int, *events: metering_pb2.UsageEvent) -> metering_pb2.StreamUsageResponse:
        await self.send(number, *events)
        return await self.read()

    async def refusal(self) -> tuple[str, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call.read()
        return caught.value.code().name, reason_of(caught.value)


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    edge = Edge()
    async with serving(edge.application) as channel:
        edge.stub = metering_pb2_grpc.MeteringServiceStub(channel)
        yield edge


def event(event_id: str, organization_id: str = "", quantity: int = 1) -> metering_pb2.UsageEvent:
    message = metering_pb2.UsageEvent(
        id=event_id,
        source="tests",
        subject=metering_pb2.Subject(organization_id=organization_id),
        measurements=[metering_pb2.Measurement(meter="api_calls", quantity=quantity)],
    )
    message.event_time.GetCurrentTime()
    return message


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - it comes true on the other side of a channel
            await asyncio.sleep(0.005)


async def test_every_batch_is_acknowledged_in_order_with_what_became_of_it(edge: Edge) -> None:
    stream = edge.stream()
    again = event("2")
    await stream.send(1, event("1"), again)
    await stream.send(5, again, event("bad", quantity=-1), event("3"))
    await stream.call.done_writing()
    first, second = await stream.read(), await stream.read()
    assert (first.batch_number, first.accepted_count, first.duplicate_count, first.last_sequence) == (1, 2, 0, 2)
    assert (second.batch_number, second.accepted_count, second.duplicate_count, second.last_sequence) == (5, 1, 1, 3)
    assert [(refused.index, refused.status) for refused in second.refused] == [(1, metering_pb2.EVENT_STATUS_REJECTED)]
    assert await stream.call.read() is grpc.aio.EOF
    assert await stream.call.code() is grpc.StatusCode.OK


async def test_the_last_sequence_is_the_highest_also_when_old_events_come_last(edge: Edge) -> None:
    stream, old = edge.stream(), event("old")
    await stream.acknowledge(1, old)
    assert (await stream.acknowledge(2, event("new"), old)).last_sequence == 2


@pytest.mark.parametrize("number", [7, 6, -1])
async def test_a_batch_number_that_does_not_rise_ends_the_stream_after_the_acknowledgements_before_it(
    edge: Edge, number: int
) -> None:
    stream = edge.stream()
    await stream.send(7, event("1"))
    await stream.send(number, event("2"))
    assert (await stream.read()).batch_number == 7
    assert await stream.refusal() == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert await edge.ledger.count("acme") == 1


async def test_an_empty_batch_and_one_that_is_too_large_are_refused(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BATCH_EVENTS_MAX", 1)
    for events, reason in (([], "INVALID_FIELD"), ([event("1"), event("2")], "LIMIT_EXCEEDED")):
        stream = edge.stream()
        await stream.send(1, *events)
        assert await stream.refusal() == ("INVALID_ARGUMENT", reason)


async def test_another_tenants_id_ends_the_stream_and_nothing_of_the_batch_is_recorded(edge: Edge) -> None:
    stream = edge.stream()
    await stream.send(1, event("1"), event("2", "other"))
    assert await stream.refusal() == ("PERMISSION_DENIED", "ORGANIZATION_MISMATCH")
    assert await edge.ledger.count("acme") == 0


async def test_the_admin_records_for_several_organizations_and_must_name_each(edge: Edge) -> None:
    answer = await edge.stream(as_admin=True).acknowledge(1, event("1", "a"), event("2"), event("3", "b"))
    assert (answer.accepted_count, [refused.index for refused in answer.refused]) == (2, [1])
    assert answer.last_sequence == 1


async def test_a_tenant_cannot_speak_in_the_name_of_a_service(edge: Edge) -> None:
    spoofed = event("1")
    spoofed.source = "analytics"
    stream = edge.stream()
    assert [refused.index for refused in (await stream.acknowledge(1, event("2"), spoofed)).refused] == [1]
    assert [refused.index for refused in (await stream.acknowledge(2, spoofed)).refused] == [0]


async def test_no_more_than_the_maximum_of_batches_is_read_before_it_is_acknowledged(edge: Edge) -> None:
    edge.ledger.holds = True
    stream = edge.stream()
    count = limits.STREAM_BATCHES_IN_FLIGHT_MAX + 3
    for number in range(count):
        await stream.send(number, event(str(number)))
    await eventually(lambda: edge.batches._held.items == limits.STREAM_BATCHES_IN_FLIGHT_MAX)
    edge.ledger.holds = False
    edge.end_transaction()
    assert [(await stream.read()).batch_number for _ in range(count)] == list(range(count))
    most = max(len(transaction.events) for transaction in edge.ledger.begun)
    assert most <= limits.STREAM_BATCHES_IN_FLIGHT_MAX


async def test_a_stream_is_not_read_while_too_much_is_held_and_loses_nothing(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_EVENTS_MAX", 4)
    edge.ledger.holds = True
    streams = [edge.stream() for _ in range(3)]
    for index, stream in enumerate(streams):
        for number in range(5):
            await stream.send(number, event(f"{index}-{number}"))
    await eventually(lambda: len(edge.batches._entering) == 3)
    assert edge.batches._held.items <= 2
    edge.ledger.holds = False
    edge.end_transaction()
    for stream in streams:
        assert [(await stream.read()).batch_number for _ in range(5)] == list(range(5))
    assert await edge.ledger.count("acme") == 15


async def test_a_unary_call_beyond_what_may_be_held_is_told_when_to_come_again(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_EVENTS_MAX", 1)
    edge.ledger.holds = True
    first = asyncio.ensure_future(edge.record(event("1")))
    await eventually(lambda: bool(edge.ledger.begun))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await edge.record(event("2"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (reason_of(caught.value), retry_delay_of(caught.value)) == ("OVERLOADED", timedelta(seconds=1))
    edge.end_transaction()
    await first


async def test_streams_beyond_the_maximum_are_told_when_to_come_again_and_a_place_is_given_back(
    edge: Edge,
) -> None:
    edge.streams._calls._calls_max = 1
    first = edge.stream()
    await first.acknowledge(1, event("1"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await edge.stream().call.read()
    assert (reason_of(caught.value), retry_delay_of(caught.value)) == ("OVERLOADED", timedelta(seconds=1))
    first.call.cancel()
    await eventually(lambda: edge.streams._calls.count == 0)
    assert (await edge.stream().acknowledge(1, event("2"))).accepted_count == 1


async def test_one_organization_cannot_take_the_places_of_the_others(edge: Edge) -> None:
    edge.streams._calls._calls_of_one_max = 1
    first = edge.stream()
    await first.acknowledge(1, event("1"))
    assert await edge.stream().refusal() == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    others = [edge.stream(as_admin=True) for _ in range(2)]
    for number, other in enumerate(others):
        assert (await other.acknowledge(1, event(f"admin-{number}", "other"))).accepted_count == 1
    first.call.cancel()
    await eventually(lambda: edge.streams._calls.count == 2)
    assert (await edge.stream().acknowledge(1, event("2"))).accepted_count == 1


async def test_a_client_that_cancels_leaves_whole_batches_only_and_nothing_held(edge: Edge) -> None:
    edge.ledger.holds = True
    stream = edge.stream()
    await stream.send(1, event("1"), event("2"))
    await eventually(lambda: len(edge.ledger.begun) == 1)
    await stream.send(2, event("3"), event("4"))
    await eventually(lambda: edge.batches._held.items == 4)
    stream.call.cancel()
    await eventually(lambda: edge.batches._held.items == 2)
    edge.ledger.holds = False
    edge.end_transaction()
    await eventually(lambda: edge.batches._held.items == 0)
    assert await edge.ledger.count("acme") == 2
    answer = await edge.stream().acknowledge(1, event("3"), event("4"))
    assert answer.accepted_count == 2


async def test_a_client_that_vanishes_without_a_word_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PING_AFTER_SECONDS", 0.2)
    monkeypatch.setattr(server, "PING_ANSWER_SECONDS", 0.2)
    edge = Edge()
    async with serving_at(edge.application) as port, ToxicProxy(port) as proxy:
        # From then on nothing comes from the client any more, and nobody closes its connection.
        proxy.when(b"vanished", toxic=Toxic.HOLD)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
            edge.stub = metering_pb2_grpc.MeteringServiceStub(channel)
            stream = edge.stream()
            await stream.acknowledge(1, event("1"))
            await stream.send(2, event("vanished"))
            await eventually(lambda: edge.streams._calls.count == 0)
            assert await edge.ledger.count("acme") == 1


async def test_a_store_that_is_away_ends_the_stream_and_what_is_sent_again_counts_once(edge: Edge) -> None:
    edge.ledger.holds = True
    stream = edge.stream()
    message = event("1")
    await stream.send(1, message)
    await eventually(lambda: len(edge.ledger.begun) == 1)
    edge.ledger.begun[0].may_end.set_exception(DependencyUnavailable(dependency="Postgres"))
    assert await stream.refusal() == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
    edge.ledger.holds = False
    stream = edge.stream()
    assert (await stream.acknowledge(1, message)).accepted_count == 1
    assert (await stream.acknowledge(2, message)).duplicate_count == 1


async def test_a_revoked_key_ends_its_stream_within_a_second(edge: Edge) -> None:
    stream = edge.stream()
    await stream.acknowledge(0, event("0"))
    del edge.keys.principals["tb_live_acme"]
    loop = asyncio.get_running_loop()
    revoked = loop.time()

    async def send_until_refused() -> None:
        for number in itertools.count(1):
            await stream.acknowledge(number, event(str(number)))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send_until_refused()
    assert reason_of(caught.value) == "CREDENTIAL_INVALID"
    assert loop.time() - revoked < 1


async def test_a_process_that_drains_acknowledges_what_it_has_read_and_sends_the_client_away(edge: Edge) -> None:
    edge.ledger.holds = True
    stream, idle = edge.stream(), edge.stream()
    await stream.send(1, event("1"))
    await eventually(lambda: len(edge.ledger.begun) == 1)
    await eventually(lambda: edge.streams._calls.count == 2)
    edge.application.drain()
    assert await idle.refusal() == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
    edge.end_transaction()
    assert (await stream.read()).accepted_count == 1
    assert await stream.refusal() == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
    assert await edge.stream().refusal() == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
