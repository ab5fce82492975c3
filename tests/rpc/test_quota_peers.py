"""What quota reads from metering and billing, over real servers and channels."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

import grpc
import pytest
from grpc_health.v1 import health

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable, LogRewound
from kit.feed import START, Position
from kit.grpc.client import connect
from kit.grpc.identity import Authenticator
from kit.grpc.interceptor import Gate
from kit.grpc.server import Application, Servicer, build_server
from kit.testing.servers import KnownKeys
from services.metering.adapters.memory import MemoryLedger, MemoryMeterCatalog
from services.metering.domain.events import EventRef, Measurement, Subject, UsageEvent
from services.metering.domain.meters import Meter
from services.metering.rpc.metering_servicer import MeteringServicer
from services.quota.adapters.billing_client import RemoteEntitlements
from services.quota.adapters.metering_client import RemoteLedger, RemoteMeters
from services.quota.domain.entitlements import Period, Standing
from services.quota.domain.limits import LimitKind, plan_limit
from services.quota.domain.usage import UsageEntry, tally
from tests.metering_house import ledger_servicer, metering_servicer
from tests.unit.quota.samples import AGENTS, MINUTES, counter
from tollbook.billing.v1 import billing_pb2, catalog_pb2, entitlements_pb2, entitlements_pb2_grpc
from tollbook.feed.v1 import feed_pb2

NOW = datetime.now(UTC)
NOW_US = unix_microseconds(NOW)


SERVICE_KEY = "tb_service_" + "q" * 32


@asynccontextmanager
async def channel_to(*servicers: Servicer) -> AsyncIterator[grpc.aio.Channel]:
    """A server of the suite, and the channel that quota has to it."""

    async def prepare() -> None:
        return None

    hashes = {"quota": hashlib.sha256(SERVICE_KEY.encode()).hexdigest()}
    application = Application(authenticator=Authenticator(KnownKeys({}), hashes), servicers=servicers, prepare=prepare)
    gate = Gate()
    gate.is_open = True
    server = build_server("tests", application, gate, health.aio.HealthServicer())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with connect(f"127.0.0.1:{port}", SERVICE_KEY) as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
def recorded() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture
async def metering(recorded: MemoryLedger) -> AsyncIterator[grpc.aio.Channel]:
    meter = Meter(name=MINUTES, base_unit="ms", display_unit="minute", base_units_per_display_unit=60_000)
    catalog = MemoryMeterCatalog(meter)

    servicer = metering_servicer(recorded, catalog)
    async with channel_to(servicer, ledger_servicer(recorded)) as channel:
        yield channel


def event(number: int, quantity: int = 5) -> UsageEvent:
    return UsageEvent(
        id=f"e{number}",
        source="tests",
        subject=Subject(organization_id="acme"),
        event_time_ns=NOW_US * 1_000 + 999,
        measurements=(Measurement(MINUTES, quantity),),
        reservation_id="r1",
        reservation_final=True,
    )


async def test_the_ledger_is_read_from_a_position_to_its_head(
    metering: grpc.aio.Channel, recorded: MemoryLedger
) -> None:
    await recorded.append([event(1), event(2)], now=NOW)
    ledger = RemoteLedger(metering)
    heads = await anext(ledger.watch())
    (page,) = [page async for page in ledger.read("acme", START)]
    assert page.entries[0] == UsageEntry(1, NOW_US, ((MINUTES, 5),), "r1", reservation_final=True)
    assert heads[0].position == page.position == await ledger.head("acme")
    assert [page async for page in ledger.read("acme", page.position)] == []


async def test_a_reversal_is_read_as_usage_taken_back_in_the_period_of_its_event(
    metering: grpc.aio.Channel, recorded: MemoryLedger
) -> None:
    reversal = UsageEvent(
        id="r",
        source="tests",
        subject=Subject(organization_id="acme"),
        event_time_ns=None,
        measurements=(),
        reversal_of=EventRef("tests", "e1"),
    )
    await recorded.append([event(1), event(2), reversal], now=NOW)
    ledger = RemoteLedger(metering)
    (page,) = [page async for page in ledger.read("acme", START)]
    assert page.entries[2] == UsageEntry(3, NOW_US, ((MINUTES, -5),))
    period = Period(NOW_US, NOW_US + 1)
    snapshot = await ledger.snapshot("acme", period)
    assert snapshot.used == tally(page.entries, period).used == {counter(MINUTES): 5}


async def test_a_position_that_is_not_in_the_ledger_says_that_it_was_rewound(
    metering: grpc.aio.Channel, recorded: MemoryLedger
) -> None:
    await recorded.append([event(1)], now=NOW)
    with pytest.raises(LogRewound):
        await anext(RemoteLedger(metering).read("acme", Position(1, "other")))


async def test_a_snapshot_totals_a_period_and_names_the_head(
    metering: grpc.aio.Channel, recorded: MemoryLedger
) -> None:
    await recorded.append([event(1), event(2)], now=NOW)
    ledger = RemoteLedger(metering)
    snapshot = await ledger.snapshot("acme", Period(NOW_US, NOW_US + 1))
    assert (snapshot.used, snapshot.position) == ({counter(MINUTES): 10}, await ledger.head("acme"))
    assert (await ledger.snapshot("acme", Period(NOW_US + 1, NOW_US + 2))).used == {}


async def test_a_ledger_without_events_has_its_head_at_the_start(metering: grpc.aio.Channel) -> None:
    assert await RemoteLedger(metering).head("acme") == START


async def test_meters_are_known_by_the_list_of_metering(metering: grpc.aio.Channel) -> None:
    assert list(await RemoteMeters(metering).unknown([MINUTES, "unheard_of"])) == ["unheard_of"]


async def test_without_metering_nothing_is_known_and_nobody_waits_long() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(DependencyUnavailable):
            await RemoteMeters(channel).unknown([MINUTES])
        with pytest.raises(DependencyUnavailable):
            await RemoteLedger(channel).head("acme")


class FlakyMeters(MeteringServicer):
    """Answers once."""

    def __init__(self, catalog: MemoryMeterCatalog) -> None:
        self._meters = catalog
        self.asked = 0

    async def ListMeters(self, request: Any, context: Any) -> Any:
        self.asked += 1
        if self.asked > 1:
            await context.abort(grpc.StatusCode.INTERNAL)
        return await super().ListMeters(request, context)


async def test_meters_once_known_stay_known_while_metering_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.quota.adapters.metering_client.METERS_BELIEVED_SECONDS", 0)
    flaky = FlakyMeters(
        MemoryMeterCatalog(Meter(name=MINUTES, base_unit="", display_unit="", base_units_per_display_unit=1))
    )
    async with channel_to(flaky) as channel:
        meters = RemoteMeters(channel)
        assert list(await meters.unknown([MINUTES])) == []
        assert list(await meters.unknown(["unheard_of"])) == ["unheard_of"]
        assert list(await meters.unknown([MINUTES])) == []
    assert flaky.asked >= 2


class Billing(entitlements_pb2_grpc.EntitlementFeedServiceServicer):
    """One entitlement, and a log that reaches further than it."""

    service_name: ClassVar[str] = "tollbook.billing.v1.EntitlementFeedService"

    def __init__(self, *entitlements: entitlements_pb2.Entitlement) -> None:
        self._entitlements = entitlements
        self._log = [feed_pb2.Position(sequence=number, commit_id=f"c{number}") for number in range(1, 10)]

    def add_to(self, server: grpc.aio.Server) -> None:
        entitlements_pb2_grpc.add_EntitlementFeedServiceServicer_to_server(self, server)

    async def WatchHeads(self, request: Any, context: Any) -> AsyncIterator[Any]:
        head = feed_pb2.Head(organization_id="acme", position=feed_pb2.Position(sequence=9, commit_id="c9"))
        yield entitlements_pb2.WatchHeadsResponse(heads=[head])

    async def ReadEntitlements(self, request: Any, context: Any) -> Any:
        if request.HasField("after") and request.after not in self._log:
            raise LogRewound(sequence=request.after.sequence)
        return entitlements_pb2.ReadEntitlementsResponse(
            entitlements=self._entitlements, position=feed_pb2.Position(sequence=9, commit_id="c9")
        )


def entitled(**fields: Any) -> entitlements_pb2.Entitlement:
    message = entitlements_pb2.Entitlement(
        organization_id="acme",
        version=3,
        plan_id="starter",
        status=billing_pb2.SUBSCRIPTION_STATUS_ACTIVE,
        meters=[
            catalog_pb2.PlanMeter(
                meter=MINUTES, limit_kind=catalog_pb2.PLAN_LIMIT_KIND_PERIOD, limit_quantity=0, grace_percent=10
            ),
            catalog_pb2.PlanMeter(meter=AGENTS, limit_kind=catalog_pb2.PLAN_LIMIT_KIND_CONCURRENCY),
        ],
    )
    message.period_start_time.FromMicroseconds(NOW_US)
    message.period_end_time.FromMicroseconds(NOW_US + 1_000)
    message.MergeFrom(entitlements_pb2.Entitlement(**fields))
    return message


async def test_an_entitlement_in_force_is_read_with_the_position_of_the_log() -> None:
    async with channel_to(Billing(entitled())) as channel:
        source = RemoteEntitlements(channel)
        found = await source.in_force("acme")
        heads = await anext(source.watch())
        pages = [page async for page in source.read("acme", Position(3, "c3"))]
        assert [page async for page in source.read("acme", found.position)] == pages
    assert (found.entitlement.version, found.position) == (3, Position(9, "c9"))
    assert found.entitlement.period == Period(NOW_US, NOW_US + 1_000)
    # A limit of 0 is a limit; an absent one is none.
    assert found.entitlement.limits == (
        plan_limit(MINUTES, LimitKind.PERIOD, 0, 10),
        plan_limit(AGENTS, LimitKind.CONCURRENCY, None, 0),
    )
    assert heads[0].position == found.position == pages[0].position


@pytest.mark.parametrize(
    ("status", "standing"),
    [
        (billing_pb2.SUBSCRIPTION_STATUS_ACTIVE, Standing.ACTIVE),
        (billing_pb2.SUBSCRIPTION_STATUS_SUSPENDED, Standing.SUSPENDED),
        (billing_pb2.SUBSCRIPTION_STATUS_CANCELED, Standing.NO_PLAN),
    ],
    ids=["active", "suspended", "canceled"],
)
async def test_the_status_of_a_subscription_is_its_standing(status: Any, standing: Standing) -> None:
    async with channel_to(Billing(entitled(status=status))) as channel:
        assert (await RemoteEntitlements(channel).in_force("acme")).entitlement.standing is standing


async def test_a_position_that_is_not_in_billings_log_says_that_it_was_rewound() -> None:
    async with channel_to(Billing(entitled())) as channel:
        with pytest.raises(LogRewound):
            await anext(RemoteEntitlements(channel).read("acme", Position(9, "forgotten")))


async def test_without_an_entitlement_nothing_can_be_decided() -> None:
    async with channel_to(Billing()) as channel:
        with pytest.raises(DependencyUnavailable):
            await RemoteEntitlements(channel).in_force("acme")
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(DependencyUnavailable):
            await RemoteEntitlements(channel).in_force("acme")
