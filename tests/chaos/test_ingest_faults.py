"""F2, F3, F6, F9, F20: senders, connections and transactions that misbehave, on two processes and one Postgres."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio

from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.toxic import Toxic, ToxicProxy
from tests.conftest import RoleUrls
from tests.metering_process import (
    FOLLOWER,
    MeteringProcess,
    Site,
    metering_processes,
    port_of,
    resident_bytes,
    serving_accounts,
    stored_ledger,
    usage_event,
    usage_events,
)
from tollbook.feed.v1 import feed_pb2
from tollbook.metering.v1 import ledger_pb2, ledger_pb2_grpc, metering_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCEPTED, DUPLICATE = metering_pb2.EVENT_STATUS_ACCEPTED, metering_pb2.EVENT_STATUS_DUPLICATE


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Two processes of one Postgres; one of them reaches it through a proxy."""

    proxy: ToxicProxy
    proxied: MeteringProcess
    direct: MeteringProcess
    owner_url: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(
    tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres, migrated: Callable[[str], RoleUrls]
) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("ingest")
    async with serving_accounts() as accounts_address, ToxicProxy(port_of(postgres.url)) as proxy:
        site = Site(urls=migrated("metering"), accounts_address=accounts_address, log_path=folder / "metering.log")
        async with metering_processes(site.through(proxy.port)) as (proxied,), metering_processes(site) as (direct,):
            yield Scene(proxy=proxy, proxied=proxied, direct=direct, owner_url=postgres.url)


async def give_up_somewhere(metering: MeteringProcess, batch: list[metering_pb2.UsageEvent], seconds: float) -> None:
    """Sends a batch, one way or the other, and gives up after a while unless it is answered."""
    if batch[0].id[-3] in "13579":
        stream = metering.stream()
        try:
            async with asyncio.timeout(seconds):
                await stream.write(metering_pb2.StreamUsageRequest(batch_number=1, events=batch))
                await stream.read()
        except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        finally:
            stream.cancel()
        return
    try:
        await metering.record(batch, seconds=seconds)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error  # noqa: PT017 - it may be answered as well


async def test_clients_that_give_up_anywhere_leave_whole_batches_and_no_memory(
    scene: Scene, organization_id: str
) -> None:
    chance = random.Random(2)
    metering = scene.direct
    batches: dict[str, list[metering_pb2.UsageEvent]] = {}

    async def round_of(name: str) -> None:
        new = {f"{name}-{number:03}": usage_events(f"{name}-{number:03}", 10, organization_id) for number in range(200)}
        batches.update(new)
        waiting = list(new.values())

        async def sender() -> None:
            while waiting:
                await give_up_somewhere(metering, waiting.pop(), chance.expovariate(1 / 0.02))

        await asyncio.gather(*(sender() for _ in range(16)))

    await round_of("warm")
    before = resident_bytes(metering.pid)
    for name in ("x", "y", "z"):
        await round_of(name)
    assert resident_bytes(metering.pid) - before < 16 * 1024 * 1024
    stored = set((await stored_ledger(scene.owner_url, organization_id)).ids)
    assert 0 < len(stored) < 10 * len(batches), "every sender gave up too early, or none did"
    for batch in batches.values():
        assert len({event.id for event in batch} & stored) in (0, len(batch)), "half a batch is stored"
    answers = await asyncio.gather(*(metering.record_stubbornly(batch) for batch in batches.values()))
    statuses = Counter(result.status for answer in answers for result in answer.results)
    assert set(statuses) <= {ACCEPTED, DUPLICATE}
    assert statuses[DUPLICATE] >= len(stored)
    again = await asyncio.gather(*(metering.record_stubbornly(batch) for batch in batches.values()))
    for first, second in zip(answers, again, strict=True):
        assert [result.sequence for result in first.results] == [result.sequence for result in second.results]
    (await stored_ledger(scene.owner_url, organization_id)).assert_holds(
        {event.id for batch in batches.values() for event in batch}
    )


async def test_one_batch_sent_to_two_processes_by_eight_senders_at_once_is_stored_once(
    scene: Scene, organization_id: str
) -> None:
    batch = usage_events("same", 200, organization_id)
    batch += batch[:20]
    conflicting = usage_event("same-7", organization_id, quantity=2)

    async def stream(metering: MeteringProcess) -> tuple[int, int]:
        call = metering.stream()
        await call.write(metering_pb2.StreamUsageRequest(batch_number=1, events=batch))
        answer = await call.read()
        assert isinstance(answer, metering_pb2.StreamUsageResponse)
        call.cancel()
        return answer.accepted_count, answer.duplicate_count

    async def unary(metering: MeteringProcess) -> tuple[int, int]:
        statuses = Counter(result.status for result in (await metering.record(batch)).results)
        return statuses[ACCEPTED], statuses[DUPLICATE]

    senders = [send(metering) for metering in (scene.proxied, scene.direct) for send in (stream, unary) * 2]
    counts = await asyncio.gather(*senders)
    assert sum(accepted for accepted, _ in counts) == 200
    assert sum(duplicates for _, duplicates in counts) == 8 * 220 - 200
    conflict = (await scene.direct.record([conflicting])).results[0]
    assert conflict.status == metering_pb2.EVENT_STATUS_CONFLICT
    (await stored_ledger(scene.owner_url, organization_id)).assert_holds({event.id for event in batch})


@pytest.mark.parametrize("by_stream", [False, True])
async def test_a_connection_reset_after_the_commit_was_sent_is_resolved_by_the_resend(
    scene: Scene, organization_id: str, *, by_stream: bool
) -> None:
    batch = usage_events(f"cut-{organization_id}", 10, organization_id)
    rule = scene.proxy.when(batch[-1].id.encode(), b"COMMIT", toxic=Toxic.CUT_ANSWER)

    async def send() -> None:
        if not by_stream:
            await scene.proxied.record(batch)
            return
        stream = scene.proxied.stream()
        await stream.write(metering_pb2.StreamUsageRequest(batch_number=1, events=batch))
        await stream.read()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert rule.reached.is_set()
    answer = await scene.proxied.record_stubbornly(batch)
    assert [result.status for result in answer.results] == [DUPLICATE] * 10
    (await stored_ledger(scene.owner_url, organization_id)).assert_holds({event.id for event in batch})


@pytest.mark.parametrize("point", ["insert", "commit"])
async def test_a_connection_reset_before_the_commit_stores_nothing_until_the_resend(
    scene: Scene, organization_id: str, point: str
) -> None:
    batch = usage_events(f"{point}-{organization_id}", 10, organization_id)
    needles = (batch[-1].id.encode(), b"COMMIT")
    scene.proxy.when(*needles[: {"insert": 1, "commit": 2}[point]], toxic=Toxic.CUT)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await scene.proxied.record(batch)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    (await stored_ledger(scene.owner_url, organization_id)).assert_holds(set())
    answer = await scene.proxied.record_stubbornly(batch)
    assert [result.status for result in answer.results] == [ACCEPTED] * 10


def poisoned(organization_id: str) -> dict[str, metering_pb2.UsageEvent]:
    """Events that must not get in, by what is wrong with each."""
    events = {
        name: usage_event(name, organization_id)
        for name in (
            "a long id",
            "a control character",
            "an unknown meter",
            "a meter twice",
            "no measurement",
            "too many measurements",
            "no time",
            "a time beyond all bounds",
            "a time long ago",
            "a subject with a space",
            "tokens beyond 2^53",
            "a call without a provider",
            "a label that is not on the list",
        )
    }
    for quantity in (10**18, -1, 2**53, -(2**63), 2**63 - 1):
        events[f"a quantity of {quantity}"] = usage_event(f"quantity {quantity}", organization_id, quantity=quantity)
    events["a long id"].id = "x" * 100_000
    events["a control character"].source = "a\0b"
    events["an unknown meter"].measurements[0].meter = "nonsense"
    events["a meter twice"].measurements.add(meter="api_calls", quantity=1)
    del events["no measurement"].measurements[:]
    for number in range(40):
        events["too many measurements"].measurements.add(meter=f"m{number}", quantity=1)
    events["no time"].ClearField("event_time")
    events["a time beyond all bounds"].event_time.seconds = 2**62
    events["a time long ago"].event_time.seconds = -(2**62)
    events["a subject with a space"].subject.user_id = "a b"
    events["tokens beyond 2^53"].provider_call.provider = "p"
    events["tokens beyond 2^53"].provider_call.tokens_output = 10**18
    events["a call without a provider"].provider_call.model = "m"
    events["a label that is not on the list"].labels["prompt"] = "text"
    return events


async def test_poison_events_are_refused_by_index_and_their_batch_and_its_neighbours_stand(
    scene: Scene, organization_id: str
) -> None:
    poison = poisoned(organization_id)
    batch = [event for name, bad in poison.items() for event in (usage_event(f"good {name}", organization_id), bad)]
    neighbours = [usage_events(f"neighbour-{number}", 5, organization_id) for number in range(5)]
    answer, *of_neighbours = await asyncio.gather(scene.direct.record(batch), *map(scene.direct.record, neighbours))
    statuses = [result.status for result in answer.results]
    refused = [name for name, status in zip(poison, statuses[1::2], strict=True) if status == ACCEPTED]
    assert refused == [], "poison was accepted"
    assert statuses[0::2] == [ACCEPTED] * len(poison)
    assert [result.index for result in answer.results] == list(range(len(batch)))
    assert {result.status for each in of_neighbours for result in each.results} == {ACCEPTED}
    good = {event.id for event in batch[0::2]} | {event.id for each in neighbours for event in each}
    (await stored_ledger(scene.owner_url, organization_id)).assert_holds(good)
    again = await scene.direct.record(batch)
    assert [result.status for result in again.results[1::2]] == statuses[1::2]


class Follower:
    """Reads an organization's feed as other services do: from its position on."""

    def __init__(self, metering: MeteringProcess, organization_id: str) -> None:
        self._stub: ledger_pb2_grpc.LedgerServiceAsyncStub = ledger_pb2_grpc.LedgerServiceStub(metering.channel)
        self._organization_id = organization_id
        self._position = feed_pb2.Position()
        self.seen: list[tuple[int, str]] = []

    async def catch_up(self) -> None:
        request = ledger_pb2.ReadLedgerRequest(organization_id=self._organization_id, after=self._position)
        async for page in self._stub.ReadLedger(request, metadata=FOLLOWER):
            self.seen += [(entry.sequence, entry.event.id) for entry in page.events]
            self._position = page.position


async def test_a_transaction_that_stays_open_lets_no_reader_skip_it_and_keeps_no_other_organization_waiting(
    scene: Scene, organization_id: str
) -> None:
    await scene.direct.record(usage_events("first", 3, organization_id))
    follower = Follower(scene.direct, organization_id)
    slow = usage_events(f"slow-{organization_id}", 3, organization_id)
    rule = scene.proxy.when(slow[-1].id.encode(), b"COMMIT", toxic=Toxic.HOLD)
    slow_answer = asyncio.ensure_future(scene.proxied.record(slow))
    await asyncio.wait_for(rule.reached.wait(), 10)
    late_answer = asyncio.ensure_future(scene.direct.record(usage_events("late", 3, organization_id)))
    for number in range(5):
        other = await scene.direct.record(usage_events(f"other-{number}", 3, f"{organization_id}-other"))
        assert {result.status for result in other.results} == {ACCEPTED}
        await follower.catch_up()
    assert [sequence for sequence, _ in follower.seen] == [1, 2, 3]
    assert not late_answer.done()
    rule.release()
    assert [result.sequence for result in (await slow_answer).results] == [4, 5, 6]
    assert [result.sequence for result in (await late_answer).results] == [7, 8, 9]
    await follower.catch_up()
    stored = await stored_ledger(scene.owner_url, organization_id)
    assert follower.seen == list(zip(stored.sequences, stored.ids, strict=True))
    assert [sequence for sequence, _ in follower.seen] == list(range(1, 10))
