"""The ledger's feed with many followers: what they cost, and what metering knows of each."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import grpc
import pytest
from prometheus_client import REGISTRY

from kit.feed import START, Position
from kit.grpc.convert import position_to_pb
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.head_watch import FROM_THE_START, Look
from kit.testing.servers import KnownKeys, serving
from services.metering.adapters.memory import MemoryLedger
from services.metering.domain import limits
from services.metering.domain.events import Measurement, Subject, UsageEvent
from tests.metering_house import ledger_servicer
from tollbook.metering.v1 import ledger_pb2, ledger_pb2_grpc

KEYS = {name: f"tb_service_{name}" for name in ("quota", "analytics")}
WATCHERS = 300


class WatchedLedger(MemoryLedger):
    """Remembers from which mark its heads were looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[str] = []

    async def heads(self, mark: str) -> Look:
        self.marks.append(mark)
        return Look((await super().heads(mark)).heads, f"after look {len(self.marks)}")

    async def record(self, organization_id: str, count: int) -> None:
        now = datetime.now(UTC)
        first = len(self._events[organization_id])
        events = [
            UsageEvent(
                id=str(first + number),
                source="tests",
                subject=Subject(organization_id=organization_id),
                event_time_ns=int(now.timestamp()) * 10**9,
                measurements=(Measurement("api_calls", 1),),
            )
            for number in range(count)
        ]
        await self.append(events, now=now)


@pytest.fixture
def ledger() -> WatchedLedger:
    return WatchedLedger()


@pytest.fixture
async def channel(ledger: WatchedLedger) -> AsyncIterator[grpc.aio.Channel]:
    async def prepare() -> None:
        return None

    hashes = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()}
    application = Application(
        authenticator=Authenticator(KnownKeys({}), hashes),
        servicers=[ledger_servicer(ledger, look_every_seconds=0.01)],
        prepare=prepare,
    )
    async with serving(application) as channel:
        yield channel


Watch = grpc.aio.UnaryStreamCall[ledger_pb2.WatchHeadsRequest, ledger_pb2.WatchHeadsResponse]


class Service:
    """One follower, as metering sees it."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {KEYS[name]}"),)
        self._name = name

    def watch(self) -> Watch:
        return self._stub.WatchHeads(ledger_pb2.WatchHeadsRequest(), metadata=self._metadata)

    async def read(self, organization_id: str, after: Position = START) -> Position:
        """Reads what there is; where that ends."""
        request = ledger_pb2.ReadLedgerRequest(organization_id=organization_id, after=position_to_pb(after))
        position = after
        async for page in self._stub.ReadLedger(request, metadata=self._metadata):
            position = Position(page.position.sequence, page.position.commit_id)
        return position

    @property
    def behind(self) -> float | None:
        return REGISTRY.get_sample_value("tollbook_metering_follower_behind_entries", {"follower": self._name})

    @property
    def watches(self) -> float | None:
        return REGISTRY.get_sample_value("tollbook_metering_follower_watches", {"follower": self._name})


@pytest.fixture
def quota(channel: grpc.aio.Channel) -> Service:
    return Service(channel, "quota")


@pytest.fixture
def analytics(channel: grpc.aio.Channel) -> Service:
    return Service(channel, "analytics")


async def told(watch: Watch) -> dict[str, int]:
    async with asyncio.timeout(10):
        answer = await watch.read()
    assert isinstance(answer, ledger_pb2.WatchHeadsResponse)
    return {head.organization_id: head.position.sequence for head in answer.heads}


async def test_hundreds_of_followers_are_told_by_one_poll(ledger: WatchedLedger, quota: Service) -> None:
    await ledger.record("acme", 1)
    watches = [quota.watch() for _ in range(WATCHERS)]
    assert await asyncio.gather(*map(told, watches)) == [{"acme": 1}] * WATCHERS
    assert quota.watches == WATCHERS
    await ledger.record("acme", 1)
    assert await asyncio.gather(*map(told, watches)) == [{"acme": 2}] * WATCHERS
    # One chain of looks, each from the mark of the one before: nobody polled beside it.
    assert ledger.marks == [FROM_THE_START, *(f"after look {number}" for number in range(1, len(ledger.marks)))]
    for watch in watches:
        watch.cancel()


async def test_a_follower_that_does_not_take_its_heads_leaves_the_others_watching(
    ledger: WatchedLedger, quota: Service, analytics: Service
) -> None:
    await ledger.record("acme", 1)
    slow, quick = quota.watch(), analytics.watch()
    assert await told(slow) == await told(quick) == {"acme": 1}
    for sequence in range(2, 20):
        await ledger.record("acme", 1)
        while await told(quick) != {"acme": sequence}:
            pass
    slow.cancel()
    quick.cancel()


async def test_metering_knows_how_far_each_follower_is_behind(
    ledger: WatchedLedger, quota: Service, analytics: Service
) -> None:
    await ledger.record("acme", 5)
    of_quota, of_analytics = quota.watch(), analytics.watch()
    await told(of_quota)
    await told(of_analytics)
    position = await quota.read("acme")
    await analytics.read("acme")
    assert (quota.behind, analytics.behind) == (0, 0)
    await ledger.record("acme", 3)
    await told(of_quota)
    await told(of_analytics)
    await analytics.read("acme", position)
    assert (quota.behind, analytics.behind) == (3, 0)
    of_quota.cancel()
    of_analytics.cancel()


async def test_a_follower_that_reads_the_same_again_is_behind_again(ledger: WatchedLedger, quota: Service) -> None:
    await ledger.record("acme", 5)
    watch = quota.watch()
    await told(watch)
    first = await quota.read("acme")
    await ledger.record("acme", 1)
    await told(watch)
    await quota.read("acme", first)
    assert quota.behind == 0
    # It says where it is: what it did not keep, it does not have.
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await quota.read("acme", Position(5, "of another history"))
    assert reason_of(refused.value) == "LOG_REWOUND"
    assert quota.behind == 1
    watch.cancel()


async def test_organizations_that_a_follower_never_reads_are_not_counted_against_it(
    ledger: WatchedLedger, quota: Service
) -> None:
    await ledger.record("acme", 5)
    await ledger.record("other", 7)
    watch = quota.watch()
    await told(watch)
    await quota.read("acme")
    assert quota.behind == 0
    watch.cancel()


async def test_a_follower_that_left_is_not_behind_and_has_no_watch(ledger: WatchedLedger, quota: Service) -> None:
    await ledger.record("acme", 5)
    watch = quota.watch()
    await told(watch)
    await quota.read("acme")
    await ledger.record("acme", 5)
    await told(watch)
    assert (quota.behind, quota.watches) == (5, 1)
    watch.cancel()
    async with asyncio.timeout(10):
        while True:
            if not quota.watches:
                break
            await asyncio.sleep(0)
    assert quota.behind == 0


async def test_more_watches_than_allowed_are_refused_and_the_others_stay(
    monkeypatch: pytest.MonkeyPatch, ledger: WatchedLedger
) -> None:
    monkeypatch.setattr(limits, "WATCHES_MAX", 2)

    async def prepare() -> None:
        return None

    hashes = {"quota": hashlib.sha256(KEYS["quota"].encode()).hexdigest()}
    application = Application(
        authenticator=Authenticator(KnownKeys({}), hashes),
        servicers=[ledger_servicer(ledger, look_every_seconds=0.01)],
        prepare=prepare,
    )
    await ledger.record("acme", 1)
    async with serving(application) as channel:
        quota = Service(channel, "quota")
        watches = [quota.watch(), quota.watch()]
        await asyncio.gather(*map(told, watches))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await told(quota.watch())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await ledger.record("acme", 1)
        assert await asyncio.gather(*map(told, watches)) == [{"acme": 2}] * 2
        for watch in watches:
            watch.cancel()
