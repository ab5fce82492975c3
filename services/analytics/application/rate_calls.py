"""Rate calls: price every provider call of the ledger, once."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from prometheus_client import Counter

from kit.feed import Page, Position
from services.analytics.application.ports import CostWriter, PriceBook, WholeLedger
from services.analytics.domain import limits
from services.analytics.domain.calls import LedgerEntry
from services.analytics.domain.pricing import RatedCall, price_call

log = structlog.get_logger()

CALLS_PRICED = Counter("tollbook_analytics_calls_priced_total", "Provider calls that this process priced.")
FALLBACKS = Counter(
    "tollbook_analytics_price_fallbacks_total",
    "Provider calls that this process priced without a price of their own, or without one of the baseline's.",
)


class RateCalls:
    """What following the usage ledger does (see kit.feed.Effect): calls become costs, in step with the position."""

    def __init__(self, costs: CostWriter, prices: PriceBook, ledger: WholeLedger) -> None:
        self._costs = costs
        self._prices = prices
        self._ledger = ledger

    async def position(self, key: str) -> Position | None:
        """How far the organization's ledger is priced."""
        return await self._costs.position(key)

    async def apply(self, key: str, after: Position, page: Page[LedgerEntry]) -> bool:
        """Prices the calls of a page with one price table and keeps them. Raises PricesMissing while there is nothing
        to price a call with: the follower tries again, and nothing is skipped.
        """
        table = await self._prices.current()
        rated = [
            RatedCall(entry.sequence, entry.call, price_call(entry.call, table), table.version)
            for entry in page.entries
            if entry.call is not None
        ]
        if not await self._costs.append(key, after, page.position, rated, price_version=table.version):
            return False
        CALLS_PRICED.inc(len(rated))
        _report_fallbacks(key, rated)
        return True

    async def rebuild(self, key: str) -> None:
        """Begins the organization, or prices its whole ledger anew when the log was rewound. The ledger itself is the
        source: it has the calls, and the table all prices, so the answer is the same. Raises OutOfRetention, and what
        is priced stays as it is, when the ledger has not all of them any more.
        """
        await self._ledger.require_first_entries(key)
        table = await self._prices.current()
        position = await self._costs.position(key)
        if position is None:
            await self._costs.begin(key, price_version=table.version)
        else:
            await self._costs.restart(key, position, price_version=table.version)


def _report_fallbacks(organization_id: str, rated: Sequence[RatedCall]) -> None:
    fallbacks = [each for each in rated if each.costs.is_fallback or each.costs.baseline_is_fallback]
    if not fallbacks:
        return
    FALLBACKS.inc(len(fallbacks))
    names = sorted({f"{each.call.provider}/{each.call.model}" for each in fallbacks})
    log.warning(
        "calls_priced_at_fallback",
        organization_id=organization_id,
        call_count=len(fallbacks),
        providers=names[: limits.FALLBACKS_LOGGED_MAX],
    )
