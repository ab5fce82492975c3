"""How analytics asks metering and accounts, over real servers and channels."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import ClassVar
from zoneinfo import ZoneInfo

import grpc
import pytest
from grpc_health.v1 import health

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable, InvalidState, LogRewound, OrganizationNotFound
from kit.feed import START, Position
from kit.grpc.client import connect
from kit.grpc.context import ServicerContext
from kit.grpc.errors import to_status
from kit.grpc.identity import Authenticator, RemoteOrganizations
from kit.grpc.interceptor import Gate
from kit.grpc.server import Application, Servicer, build_server
from kit.testing.servers import KnownKeys
from services.analytics.adapters import remote_zones
from services.analytics.adapters.ledger_feed import LedgerFeed
from services.analytics.adapters.remote_zones import RemoteTimeZones
from services.analytics.domain.calls import LedgerEntry, ProviderCall, taken_back
from services.metering.adapters.memory import MemoryLedger
from services.metering.domain import events
from services.metering.domain.limits import PAGE_EVENTS
from tests.metering_house import ledger_servicer
from tollbook.accounts.v1 import accounts_pb2, accounts_pb2_grpc

SERVICE_KEY = "tb_service_analytics_0123456789abcdef0123456789"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class FixedAccounts(accounts_pb2_grpc.AccountsServiceServicer):
    """Knows two organizations, until it is told to fail."""

    service_name: ClassVar[str] = "tollbook.accounts.v1.AccountsService"

    def __init__(self) -> None:
        self.zones = {"berlin": "Europe/Berlin", "mars": "Mars/Olympus_Mons"}
        self.is_away = False

    def add_to(self, server: grpc.aio.Server) -> None:
        accounts_pb2_grpc.add_AccountsServiceServicer_to_server(self, server)

    async def GetOrganization(
        self, request: accounts_pb2.GetOrganizationRequest, context: ServicerContext
    ) -> accounts_pb2.GetOrganizationResponse:
        if self.is_away:
            await context.abort_with_status(to_status("INTERNAL", "INTERNAL", "away", "r"))
        if request.organization_id not in self.zones:
            await context.abort_with_status(to_status("NOT_FOUND", "ORGANIZATION_NOT_FOUND", "none", "r"))
        zone = self.zones[request.organization_id]
        organization = accounts_pb2.Organization(organization_id=request.organization_id, time_zone=zone)
        return accounts_pb2.GetOrganizationResponse(organization=organization)


@asynccontextmanager
async def peer(*servicers: Servicer) -> AsyncIterator[grpc.aio.Channel]:
    """A channel as ours to a server that knows our key."""

    async def prepare() -> None:
        return None

    hashes = {"analytics": hashlib.sha256(SERVICE_KEY.encode()).hexdigest()}
    application = Application(authenticator=Authenticator(KnownKeys({}), hashes), servicers=servicers, prepare=prepare)
    gate = Gate()
    gate.is_open = True
    server = build_server("tests", application, gate, health.aio.HealthServicer())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with connect(f"127.0.0.1:{port}", SERVICE_KEY) as channel:
            yield channel
    finally:
        await server.stop(grace=None)


def event(number: int, call: events.ProviderCall | None = None, *, time_ns: int | None = None) -> events.UsageEvent:
    return events.UsageEvent(
        id=f"e{number}",
        source="tests",
        subject=events.Subject(
            organization_id="acme", project_id="p", team_id="t", user_id="u", agent_id="a", task_id="k"
        ),
        event_time_ns=unix_microseconds(NOW) * 1_000 if time_ns is None else time_ns,
        measurements=(events.Measurement("api_calls", 1),),
        provider_call=call,
    )


CALL = events.ProviderCall(
    provider="openai_codex",
    model="m",
    operation="completion",
    tokens_input_uncached=2**53 - 1,
    tokens_cache_read=1,
    tokens_cache_write=2,
    tokens_output=3,
    tokens_reasoning=4,
    latency_ns=5,
    outcome=1,
    error_code="",
)


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture
async def feed(ledger: MemoryLedger) -> AsyncIterator[LedgerFeed]:
    async with peer(ledger_servicer(ledger)) as channel:
        yield LedgerFeed(channel)


async def entries(feed: LedgerFeed, after: Position = START) -> list[LedgerEntry]:
    return [entry async for page in feed.read("acme", after) for entry in page.entries]


async def test_the_feed_hands_over_provider_calls_and_where_the_others_were(
    ledger: MemoryLedger, feed: LedgerFeed
) -> None:
    just_before = unix_microseconds(NOW) * 1_000 - 1
    await ledger.append([event(1), event(2, CALL, time_ns=just_before)], now=NOW)
    assert await entries(feed) == [
        LedgerEntry(1, None),
        LedgerEntry(
            2,
            ProviderCall(
                event_time=datetime(2026, 1, 31, 11, 59, 59, 999_999, tzinfo=UTC),
                provider="openai_codex",
                model="m",
                project_id="p",
                team_id="t",
                user_id="u",
                agent_id="a",
                task_id="k",
                tokens_input_uncached=2**53 - 1,
                tokens_cache_read=1,
                tokens_cache_write=2,
                tokens_output=3,
                tokens_reasoning=4,
            ),
        ),
    ]


async def test_the_feed_hands_over_a_reversal_as_the_call_taken_back(ledger: MemoryLedger, feed: LedgerFeed) -> None:
    reversals = [
        events.UsageEvent(
            id=f"r{number}",
            source="tests",
            subject=events.Subject(organization_id="acme"),
            event_time_ns=None,
            measurements=(),
            reversal_of=events.EventRef("tests", f"e{number}"),
        )
        for number in (1, 2)
    ]
    await ledger.append([event(1), event(2, CALL), *reversals], now=NOW)
    found = await entries(feed)
    assert found[1].call is not None
    assert found[2:] == [LedgerEntry(3, None), LedgerEntry(4, taken_back(found[1].call))]


async def test_the_feed_goes_on_after_a_position_and_knows_every_head(ledger: MemoryLedger, feed: LedgerFeed) -> None:
    count = PAGE_EVENTS + 7
    await ledger.append([event(number) for number in range(count)], now=NOW)
    pages = [page async for page in feed.read("acme", START)]
    assert [len(page.entries) for page in pages] == [PAGE_EVENTS, 7]
    assert len(await entries(feed, pages[0].position)) == 7
    async for heads in feed.watch():
        assert [(head.key, head.position) for head in heads] == [("acme", pages[-1].position)]
        break


async def test_the_feed_says_that_a_ledger_was_rewound(ledger: MemoryLedger, feed: LedgerFeed) -> None:
    await ledger.append([event(1)], now=NOW)
    with pytest.raises(LogRewound):
        await entries(feed, Position(1, "another"))


async def test_the_feed_says_that_metering_is_away() -> None:
    async with connect("127.0.0.1:1", SERVICE_KEY) as channel:
        feed = LedgerFeed(channel)
        with pytest.raises(DependencyUnavailable, match="metering"):
            await entries(feed)
        with pytest.raises(DependencyUnavailable, match="metering"):
            async for _ in feed.watch():
                pass


async def test_a_zone_is_the_organizations_and_survives_an_outage_of_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts, now = FixedAccounts(), [1_000.0]  # type: ignore[abstract]  # the rest is not called
    monkeypatch.setattr(remote_zones, "monotonic", lambda: now[0])
    async with peer(accounts) as channel:
        zones = RemoteTimeZones(RemoteOrganizations(channel))
        assert await zones.zone_of("berlin") == ZoneInfo("Europe/Berlin")
        accounts.zones["berlin"] = "Europe/Lisbon"
        assert await zones.zone_of("berlin") == ZoneInfo("Europe/Berlin")
        now[0] += remote_zones.BELIEVED_SECONDS
        assert await zones.zone_of("berlin") == ZoneInfo("Europe/Lisbon")
        accounts.is_away = True
        now[0] += remote_zones.BELIEVED_WHEN_UNAVAILABLE_SECONDS - 1
        assert await zones.zone_of("berlin") == ZoneInfo("Europe/Lisbon")
        now[0] += 1
        with pytest.raises(DependencyUnavailable):
            await zones.zone_of("berlin")


async def test_an_unknown_organization_or_zone_is_refused() -> None:
    async with peer(FixedAccounts()) as channel:  # type: ignore[abstract]  # the rest is not called
        zones = RemoteTimeZones(RemoteOrganizations(channel))
        with pytest.raises(OrganizationNotFound):
            await zones.zone_of("nobody")
        with pytest.raises(InvalidState, match="Mars"):
            await zones.zone_of("mars")
