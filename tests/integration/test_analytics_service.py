"""Analytics as a process, following a real metering process, asking a real accounts process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import grpc
import psycopg
import pytest

from kit.grpc.client import connect
from kit.postgres.embedded import EmbeddedPostgres
from kit.process import ChildProcess, tail_of
from kit.testing.stores import free_port
from tests.integration.analytics_store import EMPTY_ANALYTICS
from tollbook.accounts.v1 import accounts_pb2, accounts_pb2_grpc
from tollbook.analytics.v1 import analytics_pb2, analytics_pb2_grpc, prices_pb2, prices_pb2_grpc
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc

ADMIN_KEY = "tb_admin_0123456789abcdef0123456789abcdef"
CHECKOUT = Path(__file__).resolve().parents[2]
SERVICES = ("accounts", "metering", "analytics")
SERVICE_KEYS = {name: f"tb_service_{name}_0123456789abcdef0123456789abcdef" for name in SERVICES}
PATIENCE_SECONDS = 30.0
POLL_SECONDS = 0.05


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass
class Running:
    """Three processes and a channel to each, as the operator."""

    processes: dict[str, ChildProcess]
    channels: dict[str, grpc.aio.Channel]

    async def new_organization(self) -> str:
        organization_id = f"org-{uuid4().hex}"
        organization = accounts_pb2.Organization(organization_id=organization_id, time_zone="Europe/Berlin")
        await accounts_pb2_grpc.AccountsServiceStub(self.channels["accounts"]).CreateOrganization(
            accounts_pb2.CreateOrganizationRequest(request_id=organization_id, organization=organization),
            wait_for_ready=True,
            timeout=PATIENCE_SECONDS,
        )
        return organization_id

    async def record(self, organization_id: str, *providers: str) -> int:
        """Records a call of 1 000 input and 500 output tokens at each provider; the last sequence."""
        events = []
        for provider in providers:
            event = metering_pb2.UsageEvent(
                id=uuid4().hex,
                source="tests",
                subject=metering_pb2.Subject(organization_id=organization_id),
                provider_call=metering_pb2.ProviderCall(
                    provider=provider, tokens_input_uncached=1_000, tokens_output=500
                ),
            )
            event.event_time.FromDatetime(datetime.now(UTC) - timedelta(seconds=1))
            events.append(event)
        answer = await metering_pb2_grpc.MeteringServiceStub(self.channels["metering"]).RecordUsage(
            metering_pb2.RecordUsageRequest(events=events), wait_for_ready=True, timeout=PATIENCE_SECONDS
        )
        return max(result.sequence for result in answer.results)

    async def set_price(self, provider: str, rates: tuple[str, str], *, baseline: bool = False) -> None:
        price = prices_pb2.Price(provider=provider, input_per_thousand=rates[0], output_per_thousand=rates[1])
        await prices_pb2_grpc.PriceServiceStub(self.channels["analytics"]).SetPrice(
            prices_pb2.SetPriceRequest(request_id=uuid4().hex, price=price, baseline=baseline),
            wait_for_ready=True,
            timeout=PATIENCE_SECONDS,
        )

    async def summary_when(
        self, organization_id: str, done: Callable[[analytics_pb2.GetCostSummaryResponse], bool]
    ) -> analytics_pb2.GetCostSummaryResponse:
        """The first summary of which `done` is true."""
        # Days on both sides: today in Berlin may be another day when the test crosses midnight.
        today = datetime.now(UTC).date()
        request = analytics_pb2.GetCostSummaryRequest(
            organization_id=organization_id,
            start_date=(today - timedelta(days=1)).isoformat(),
            end_date=(today + timedelta(days=1)).isoformat(),
        )
        stub = analytics_pb2_grpc.AnalyticsServiceStub(self.channels["analytics"])
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                answer = await stub.GetCostSummary(request, wait_for_ready=True, timeout=PATIENCE_SECONDS)
                if done(answer):
                    return answer
                await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def running(urls: dict[str, dict[str, str]], logs: Path) -> AsyncIterator[Running]:
    addresses = {name: f"127.0.0.1:{free_port()}" for name in SERVICES}
    async with AsyncExitStack() as resources:
        processes, channels = {}, {}
        for name in SERVICES:
            environment = {
                "PATH": "/usr/bin:/bin",
                "TOLLBOOK_LISTEN_ADDRESS": addresses[name],
                "TOLLBOOK_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
                "TOLLBOOK_SERVICE_KEY": SERVICE_KEYS[name],
                "TOLLBOOK_SERVICE_KEY_HASHES": json.dumps({peer: digest(key) for peer, key in SERVICE_KEYS.items()}),
                "TOLLBOOK_ADMIN_KEY_SHA256": digest(ADMIN_KEY),
                **{f"TOLLBOOK_{peer.upper()}_ADDRESS": address for peer, address in addresses.items()},
                **{f"TOLLBOOK_POSTGRES_{kind.upper()}_URL": url for kind, url in urls[name].items()},
            }
            process = processes[name] = ChildProcess(
                [sys.executable, "-m", f"services.{name}"],
                environment=environment,
                log_path=logs / f"{name}.log",
                working_folder=CHECKOUT,
            )
            await process.start()
            resources.push_async_callback(process.stop, signal.SIGTERM, 15.0)
            channels[name] = await resources.enter_async_context(connect(addresses[name], ADMIN_KEY))
        yield Running(processes, channels)


@pytest.fixture
async def suite(
    postgres: EmbeddedPostgres, migrated: Callable[[str], dict[str, str]], tmp_path: Path
) -> AsyncIterator[Running]:
    urls = {name: migrated(name) for name in SERVICES}
    with psycopg.connect(postgres.url) as owner:
        owner.execute(EMPTY_ANALYTICS)
    async with running(urls, tmp_path) as suite:
        yield suite


async def test_recorded_calls_become_costs_and_late_prices_reach_them(suite: Running, tmp_path: Path) -> None:
    organization_id = await suite.new_organization()
    await suite.set_price("openai_codex", ("0.002", "0.004"), baseline=True)
    await suite.set_price("github_copilot", ("0.001", "0.003"))
    head = await suite.record(organization_id, "openai_codex", "github_copilot", "unheard_of")

    answer = await suite.summary_when(organization_id, lambda answer: answer.applied_sequence == head)
    # What has no price of its own costs as the costliest.
    assert (answer.actual_cost, answer.baseline_cost, answer.savings_percent) == ("0.0105", "0.012", "12.50")
    assert "calls_priced_at_fallback" in tail_of(tmp_path / "analytics.log")

    await suite.set_price("unheard_of", ("0.0005", "0.001"))
    answer = await suite.summary_when(organization_id, lambda answer: answer.actual_cost != "0.0105")
    assert (answer.actual_cost, answer.baseline_cost, answer.savings_percent) == ("0.0075", "0.012", "37.50")


async def test_a_killed_process_goes_on_where_it_was(suite: Running) -> None:
    organization_id = await suite.new_organization()
    await suite.set_price("openai_codex", ("0.002", "0.004"), baseline=True)
    await suite.record(organization_id, *["openai_codex"] * 1_500)
    await suite.processes["analytics"].stop(signal.SIGKILL, 5.0)
    head = await suite.record(organization_id, *["openai_codex"] * 1_500)
    await suite.processes["analytics"].start()
    answer = await suite.summary_when(organization_id, lambda answer: answer.applied_sequence == head)
    assert (answer.actual_cost, answer.breakdown[0].calls) == ("12", 3_000)
