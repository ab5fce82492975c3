"""PriceService and AnalyticsService over a real server and channel, on the shipped fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest

from kit.errors import OutOfRetention
from kit.feed import Follower
from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.testing.clock import FakeClock
from kit.testing.servers import KnownKeys, serving
from services.analytics.adapters.memory import MemoryCosts, MemoryPriceBook, MemoryTimeZones
from services.analytics.application.rate_calls import RateCalls
from services.analytics.application.set_price import SetPrice
from services.analytics.application.summarize_costs import SummarizeCosts
from services.analytics.rpc.analytics_servicer import AnalyticsServicer
from services.analytics.rpc.price_servicer import PriceServicer
from tests.unit.analytics.samples import NOON, MemoryFeed, call
from tollbook.access.v1 import access_pb2
from tollbook.analytics.v1 import analytics_pb2, analytics_pb2_grpc, prices_pb2, prices_pb2_grpc

KEYS = {
    "tb_live_acme": Principal(CallerKind.TENANT, "key-1", "acme", TENANT_SCOPES),
    "tb_live_berlin": Principal(CallerKind.TENANT, "key-2", "berlin", TENANT_SCOPES),
    "tb_live_writer": Principal(CallerKind.TENANT, "key-3", "acme", frozenset({access_pb2.SCOPE_USAGE_WRITE})),
    "tb_admin_1": Principal(CallerKind.ADMIN, "admin"),
}
ZONES = {"acme": ZoneInfo("UTC"), "berlin": ZoneInfo("Europe/Berlin")}


class Analytics:
    """The service with a ledger to record into, and the calls that a client makes."""

    def __init__(self) -> None:
        self.book, self.feed = MemoryPriceBook(), MemoryFeed()
        self.costs = MemoryCosts(self.book)
        self.follower = Follower("tests", self.feed, RateCalls(self.costs, self.book, self.feed))
        self.channel: grpc.aio.Channel

    def application(self) -> Application:
        async def exists(organization_id: str) -> bool:
            return organization_id in ZONES

        async def prepare() -> None:
            return None

        summarize = SummarizeCosts(self.costs, self.book, MemoryTimeZones(ZONES), FakeClock(NOON))
        return Application(
            authenticator=Authenticator(KnownKeys(KEYS), {}),
            servicers=[
                AnalyticsServicer(summarize_costs=summarize, exists=exists),
                PriceServicer(prices=self.book, set_price=SetPrice(self.book)),
            ],
            prepare=prepare,
        )

    async def record(self, organization_id: str, *calls: Any) -> None:
        self.feed.record(organization_id, *calls)
        while await self.costs.position(organization_id) != self.feed.head(organization_id):
            await self.follower.catch_up(organization_id)

    async def set_price(
        self, provider: str, *rates: str, baseline: bool = False, key_name: str = "tb_admin_1", **fields: Any
    ) -> prices_pb2.Price:
        fields = {"input_per_thousand": rates[0], "output_per_thousand": rates[1]} | fields
        asked = prices_pb2.SetPriceRequest(
            request_id=fields.pop("request_id", f"{provider}-{rates}"),
            price=prices_pb2.Price(provider=provider, **fields),
            baseline=baseline,
        )
        answer = await prices_pb2_grpc.PriceServiceStub(self.channel).SetPrice(asked, metadata=key(key_name))
        return answer.price

    async def list_prices(self, key_name: str = "tb_live_acme") -> prices_pb2.ListPricesResponse:
        stub = prices_pb2_grpc.PriceServiceStub(self.channel)
        return await stub.ListPrices(prices_pb2.ListPricesRequest(), metadata=key(key_name))

    async def summary(
        self, key_name: str = "tb_live_acme", organization_id: str = "", start: str = "", end: str = ""
    ) -> analytics_pb2.GetCostSummaryResponse:
        asked = analytics_pb2.GetCostSummaryRequest(organization_id=organization_id, start_date=start, end_date=end)
        return await analytics_pb2_grpc.AnalyticsServiceStub(self.channel).GetCostSummary(asked, metadata=key(key_name))


def key(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


@pytest.fixture
async def analytics() -> AsyncIterator[Analytics]:
    service = Analytics()
    async with serving(service.application()) as channel:
        service.channel = channel
        yield service


@pytest.fixture
async def priced(analytics: Analytics) -> Analytics:
    await analytics.set_price("openai_codex", "0.002", "0.004", baseline=True)
    await analytics.set_price("github_copilot", "0.001", "0.003")
    await analytics.set_price("google_code_assist", "0.0015", "0.0035")
    return analytics


async def refusal(call: Awaitable[object], match: str | None = None) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError, match=match) as caught:
        await call
    return caught.value.code(), reason_of(caught.value)


INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_prices_are_listed_as_they_were_set(priced: Analytics) -> None:
    moment = prices_pb2.Price().effective_time
    moment.FromDatetime(NOON)
    await priced.set_price(
        "a", "0.10", "12", model="m", effective_time=moment, cache_read_per_thousand="0.000000000001"
    )
    answer = await priced.list_prices()
    assert [each.provider for each in answer.prices] == ["a", "github_copilot", "google_code_assist", "openai_codex"]
    assert answer.prices[0] == prices_pb2.Price(
        provider="a",
        model="m",
        effective_time=moment,
        input_per_thousand="0.1",
        output_per_thousand="12",
        cache_read_per_thousand="0.000000000001",
    )
    assert not answer.prices[1].HasField("effective_time")
    assert answer.baseline_provider == "openai_codex"


async def test_setting_a_price_again_is_fine_and_another_one_for_its_instant_is_not(priced: Analytics) -> None:
    again = await priced.set_price("github_copilot", "0.0010", "0.003", request_id="again")
    assert again.input_per_thousand == "0.001"
    refused = priced.set_price("github_copilot", "0.009", "0.003")
    assert await refusal(refused) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    reused = priced.set_price("another", "1", "1", request_id="again")
    assert await refusal(reused) == (grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED")
    assert len((await priced.list_prices()).prices) == 3


async def test_a_price_that_breaks_a_rule_is_refused_by_field(analytics: Analytics) -> None:
    for rates, fields, match in (
        (("", "1"), {}, "price.input_per_thousand"),
        (("1", "-1"), {}, "price.output_per_thousand"),
        (("1", "1"), {"cache_write_per_thousand": "1e-3"}, "price.cache_write_per_thousand"),
        (("1", "1"), {"model": "x" * 129}, "price.model"),
        (("1", "1"), {"request_id": ""}, "request_id"),
        (("1", "1"), {"effective_time": {"nanos": 1}}, "price.effective_time"),
        (("1", "1"), {"effective_time": {"seconds": 10**12}}, "price.effective_time"),
    ):
        assert await refusal(analytics.set_price("a", *rates, **fields), match) == INVALID
    assert await refusal(analytics.set_price("", "1", "1"), "price.provider") == INVALID
    assert not (await analytics.list_prices()).prices


async def test_only_the_operator_sets_prices(analytics: Analytics) -> None:
    refused = analytics.set_price("a", "1", "1", key_name="tb_live_acme")
    assert await refusal(refused) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


async def test_an_empty_ledger_costs_nothing(priced: Analytics) -> None:
    assert await priced.summary() == analytics_pb2.GetCostSummaryResponse(
        actual_cost="0",
        baseline_cost="0",
        savings="0",
        savings_percent="0.00",
        currency_code="USD",
        baseline_provider="openai_codex",
    )


async def test_a_summary_tells_cost_baseline_savings_and_providers(priced: Analytics) -> None:
    await priced.record("acme", call("openai_codex"), call("github_copilot"), call("github_copilot"), None)
    answer = await priced.summary()
    assert (answer.actual_cost, answer.baseline_cost, answer.savings) == ("0.009", "0.012", "0.003")
    assert answer.savings_percent == "25.00"
    assert [(each.provider, each.cost, each.calls) for each in answer.breakdown] == [
        ("github_copilot", "0.005", 2),
        ("openai_codex", "0.004", 1),
    ]
    assert answer.applied_sequence == 4


async def test_savings_below_zero_are_told_as_such(analytics: Analytics) -> None:
    await analytics.set_price("cheap", "1", "1", baseline=True)
    await analytics.set_price("dear", "1.00005", "1.00005")
    await analytics.record("acme", call("dear"))
    answer = await analytics.summary()
    assert (answer.savings, answer.savings_percent) == ("-0.000075", "-0.01")


async def test_days_are_the_organizations(priced: Analytics) -> None:
    midnight = datetime(2026, 1, 30, 23, tzinfo=UTC)
    for organization_id in ("acme", "berlin"):
        times = (midnight - timedelta(microseconds=1), midnight)
        await priced.record(organization_id, *(call(event_time=time) for time in times))
    day = {"start": "2026-01-31", "end": "2026-01-31"}
    assert sum(each.calls for each in (await priced.summary("tb_live_acme", **day)).breakdown) == 0
    assert sum(each.calls for each in (await priced.summary("tb_live_berlin", **day)).breakdown) == 1


async def test_bad_days_are_refused_by_field(priced: Analytics) -> None:
    assert await refusal(priced.summary(start="2026-02-30"), "start_date") == INVALID
    assert await refusal(priced.summary(end="yesterday"), "end_date") == INVALID
    assert await refusal(priced.summary(start="2026-01-02", end="2026-01-01"), "end_date") == INVALID
    assert await refusal(priced.summary(start="2020-01-01", end="2026-01-01")) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "LIMIT_EXCEEDED",
    )


async def test_a_summary_is_of_ones_own_organization(priced: Analytics) -> None:
    await priced.record("berlin", call())
    assert not (await priced.summary("tb_live_acme")).breakdown
    assert await refusal(priced.summary("tb_live_acme", "berlin")) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "ORGANIZATION_MISMATCH",
    )
    assert await refusal(priced.summary("tb_live_writer")) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


async def test_the_operator_names_the_organization(priced: Analytics) -> None:
    await priced.record("berlin", call())
    assert (await priced.summary("tb_admin_1", "berlin")).applied_sequence == 1
    assert await refusal(priced.summary("tb_admin_1")) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "ORGANIZATION_REQUIRED",
    )
    assert await refusal(priced.summary("tb_admin_1", "nobody")) == (
        grpc.StatusCode.NOT_FOUND,
        "ORGANIZATION_NOT_FOUND",
    )


async def test_costs_whose_calls_are_gone_are_never_dropped(priced: Analytics) -> None:
    """A rewound ledger would be priced anew from its first entry."""
    await priced.record("acme", call("openai_codex"), call("openai_codex"))
    before = await priced.summary()
    priced.feed.rewind("acme", 1)
    priced.feed.drop("acme", 1)
    priced.feed.record("acme", call("openai_codex"))
    for _ in range(2):
        with pytest.raises(OutOfRetention):
            await priced.follower.catch_up("acme")
    assert await priced.summary() == before


async def test_an_organization_whose_first_calls_are_gone_is_not_begun(priced: Analytics) -> None:
    priced.feed.record("globex", call("openai_codex"), call("openai_codex"))
    priced.feed.drop("globex", 1)
    with pytest.raises(OutOfRetention):
        await priced.follower.catch_up("globex")
    assert await priced.costs.position("globex") is None
