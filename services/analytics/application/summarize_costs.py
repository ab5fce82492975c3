"""Summarize costs: what the provider calls of some days cost, and would have cost at the baseline."""

from __future__ import annotations

from kit.clock import Clock
from services.analytics.application.ports import CostReader, PriceBook, TimeZones
from services.analytics.domain.days import interval_of_days
from services.analytics.domain.summary import CostSummary, summarize


class SummarizeCosts:
    """Totals days of one organization."""

    def __init__(self, costs: CostReader, prices: PriceBook, zones: TimeZones, clock: Clock) -> None:
        self._costs = costs
        self._prices = prices
        self._zones = zones
        self._clock = clock

    async def __call__(self, organization_id: str, *, start_date: str, end_date: str) -> CostSummary:
        """The exact summary of inclusive days in the organization's zone; see `interval_of_days` for the defaults.
        Raises InvalidField, LimitExceeded, OrganizationNotFound and DependencyUnavailable.
        """
        zone = await self._zones.zone_of(organization_id)
        interval = interval_of_days(start_date, end_date, zone=zone, now=self._clock.now())
        totals = await self._costs.totals(organization_id, interval)
        table = await self._prices.current()
        return summarize(
            totals.providers,
            baseline_provider=table.baseline_provider,
            applied_sequence=totals.applied_sequence,
        )
