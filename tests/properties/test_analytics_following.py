"""Whatever happens in whatever order, costs end at what the ledger and the last price table say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kit.errors import Refused
from kit.feed import Follower
from services.analytics.adapters.memory import MemoryCosts, MemoryPriceBook
from services.analytics.application.rate_calls import RateCalls
from services.analytics.application.rerate_calls import RerateCalls
from services.analytics.domain.calls import LedgerEntry, ProviderCall, taken_back
from services.analytics.domain.days import Interval
from services.analytics.domain.pricing import price_call
from tests.unit.analytics.samples import NOON, MemoryFeed, call, price, request

ALWAYS = Interval(datetime(1970, 1, 1, tzinfo=UTC), datetime(2970, 1, 1, tzinfo=UTC))
PROVIDERS = st.sampled_from(["a", "b", "unheard_of"])
HOURS = st.integers(-3, 3)

Step = tuple[str, Any]
steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["record", "use"]),
            st.lists(st.tuples(PROVIDERS, HOURS) | st.none(), min_size=1, max_size=5),
        ),
        st.tuples(
            st.just("price"),
            st.tuples(st.sampled_from(["a", "b"]), st.none() | HOURS, st.integers(0, 9), st.booleans()),
        ),
        st.tuples(st.just("take back"), st.integers(0, 9)),
        st.tuples(st.sampled_from(["follow", "rerate"]), st.none()),
        st.tuples(st.just("rewind"), st.integers(0, 5)),
    ),
    max_size=25,
)


class Suite:
    def __init__(self) -> None:
        self.feed, self.prices = MemoryFeed(), MemoryPriceBook()
        self.costs = MemoryCosts(self.prices)
        self.follower = Follower("tests", self.feed, RateCalls(self.costs, self.prices, self.feed))
        self.rerate_calls = RerateCalls(self.costs, self.prices)

    async def take(self, kind: str, detail: Any) -> None:
        try:
            match kind:
                case "record" | "use":
                    self.feed.record(
                        "acme", *(each and call(each[0], event_time=NOON + timedelta(hours=each[1])) for each in detail)
                    )
                    if kind == "use":
                        await self.follower.catch_up("acme")
                case "take back":
                    standing = _standing(self.feed.entries("acme"))
                    self.feed.record("acme", *map(taken_back, standing[detail : detail + 1]))
                case "price":
                    provider, hours, amount, makes_baseline = detail
                    start = None if hours is None else NOON + timedelta(hours=hours)
                    asked = price(provider, start=start, rates=(str(amount), str(amount + 1)))
                    await self.prices.set_price(request(asked, makes_baseline=makes_baseline))
                case "follow":
                    await self.follower.catch_up("acme")
                case "rerate":
                    await self.rerate_calls()
                case "rewind":
                    self.feed.rewind("acme", detail)
        except Refused:
            pass  # there is no price yet, or another one at that instant


def _standing(entries: Sequence[LedgerEntry]) -> list[ProviderCall]:
    """The calls that were not taken back."""
    standing: list[ProviderCall] = []
    for entry in entries:
        if entry.call is not None and entry.call.call_count < 0:
            standing.remove(taken_back(entry.call))
        elif entry.call is not None:
            standing.append(entry.call)
    return standing


async def _run(taken: Sequence[Step]) -> None:
    suite = Suite()
    suite.feed.record("acme", None)
    await suite.prices.set_price(request(price("a", start=NOON), makes_baseline=True, request_id="first"))
    for kind, detail in taken:
        await suite.take(kind, detail)
    suite.feed.record("acme", call("a"))
    while (await suite.costs.position("acme")) != suite.feed.head("acme"):
        await suite.follower.catch_up("acme")
    await suite.rerate_calls()

    expected = [price_call(each, suite.prices.table) for each in _standing(suite.feed.entries("acme"))]
    totals = (await suite.costs.totals("acme", ALWAYS)).providers
    assert sum(each.call_count for each in totals) == len(expected)
    assert sum(each.cost_femto_usd for each in totals) == sum(costs.cost_femto_usd for costs in expected)
    assert sum(each.baseline_femto_usd for each in totals) == sum(costs.baseline_femto_usd for costs in expected)
    assert await suite.costs.organizations_before(suite.prices.table.version) == []


@settings(max_examples=400)
@given(steps)
def test_costs_end_at_what_ledger_and_prices_say(taken: list[Step]) -> None:
    asyncio.run(_run(taken))
