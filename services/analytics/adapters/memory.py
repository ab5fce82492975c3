"""Prices, costs and zones in memory, for tests of what stands on them; they keep the promises of the ports.

No method awaits between reading and writing, so each is as atomic as a transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

from kit.errors import OrganizationNotFound
from kit.feed import START, Position
from services.analytics.application.ports import CostTotals
from services.analytics.domain.days import Interval
from services.analytics.domain.price_requests import PriceRequest, decide
from services.analytics.domain.prices import KeptPrice, Price, PriceTable
from services.analytics.domain.pricing import RatedCall
from services.analytics.domain.summary import ProviderTotal


class MemoryPriceBook:
    """PriceBook over one table."""

    def __init__(self) -> None:
        self.table = PriceTable()
        self._kept: list[KeptPrice] = []
        self._baseline = ("", 0)
        self._remembered: dict[str, str] = {}

    async def current(self) -> PriceTable:
        """As PriceBook."""
        return self.table

    async def set_price(self, request: PriceRequest) -> Price:
        """As PriceBook."""
        decision = decide(request, self.table, remembered=self._remembered.get(request.request_id))
        version = self.table.version + 1
        self._remembered[request.request_id] = request.content
        if decision.adds_price:
            self._kept.append(KeptPrice(version, request.price))
        if decision.sets_baseline:
            self._baseline = (request.price.provider, version)
        if decision.adds_price or decision.sets_baseline:
            provider, since = self._baseline
            self.table = PriceTable(
                version=version, prices=self._kept, baseline_provider=provider, baseline_version=since
            )
        return decision.price


@dataclass
class _Organization:
    price_version: int
    position: Position = START
    calls: dict[int, RatedCall] = field(default_factory=dict)


class MemoryCosts:
    """CostWriter, CostRerater and CostReader over dictionaries."""

    def __init__(self, prices: MemoryPriceBook) -> None:
        self._prices = prices
        self._organizations: dict[str, _Organization] = {}

    async def position(self, organization_id: str) -> Position | None:
        """As CostWriter."""
        organization = self._organizations.get(organization_id)
        return organization.position if organization else None

    async def begin(self, organization_id: str, *, price_version: int) -> None:
        """As CostWriter."""
        self._organizations.setdefault(organization_id, _Organization(price_version))

    async def append(
        self,
        organization_id: str,
        after: Position,
        upto: Position,
        calls: Sequence[RatedCall],
        *,
        price_version: int,
    ) -> bool:
        """As CostWriter."""
        organization = self._organizations.get(organization_id)
        if organization is None or organization.position != after or organization.price_version > price_version:
            return False
        organization.calls.update((rated.sequence, rated) for rated in calls)
        organization.position = upto
        return True

    async def restart(self, organization_id: str, at: Position, *, price_version: int) -> bool:
        """As CostWriter."""
        organization = self._organizations.get(organization_id)
        if organization is None or organization.position != at:
            return False
        self._organizations[organization_id] = _Organization(price_version)
        return True

    async def organizations_before(self, price_version: int) -> Sequence[str]:
        """As CostRerater."""
        return sorted(
            name for name, organization in self._organizations.items() if organization.price_version < price_version
        )

    async def price_version(self, organization_id: str) -> int | None:
        """As CostRerater."""
        organization = self._organizations.get(organization_id)
        return organization.price_version if organization else None

    async def calls_before(
        self, organization_id: str, price_version: int, *, since: datetime, after_sequence: int, count: int
    ) -> Sequence[RatedCall]:
        """As CostRerater."""
        organization = self._organizations.get(organization_id)
        found = [
            rated
            for sequence, rated in sorted(organization.calls.items() if organization else ())
            if sequence > after_sequence and rated.price_version < price_version and rated.call.event_time >= since
        ]
        return found[:count]

    async def replace_costs(self, organization_id: str, calls: Sequence[RatedCall], *, price_version: int) -> bool:
        """As CostRerater."""
        if self._prices.table.version != price_version:
            return False
        kept = self._organizations[organization_id].calls
        kept.update((rated.sequence, rated) for rated in calls if rated.sequence in kept)
        return True

    async def finish_rerating(
        self, organization_id: str, *, from_version: int, to_version: int, since: datetime, upto_sequence: int
    ) -> bool:
        """As CostRerater."""
        organization = self._organizations.get(organization_id)
        if organization is None or organization.price_version != from_version:
            return False
        if await self.calls_before(organization_id, to_version, since=since, after_sequence=upto_sequence, count=1):
            return False
        organization.price_version = to_version
        return True

    async def totals(self, organization_id: str, interval: Interval) -> CostTotals:
        """As CostReader."""
        organization = self._organizations.get(organization_id)
        if organization is None:
            return CostTotals((), applied_sequence=0)
        inside = [
            rated for rated in organization.calls.values() if interval.start <= rated.call.event_time < interval.end
        ]
        by_provider = (
            _total(provider, [rated for rated in inside if rated.call.provider == provider])
            for provider in sorted({rated.call.provider for rated in inside})
        )
        totals = tuple(total for total in by_provider if total.call_count)
        return CostTotals(totals, applied_sequence=organization.position.sequence)


class MemoryTimeZones:
    """TimeZones over a fixed mapping."""

    def __init__(self, zones: Mapping[str, tzinfo]) -> None:
        self._zones = zones

    async def zone_of(self, organization_id: str) -> tzinfo:
        """As TimeZones."""
        if organization_id not in self._zones:
            raise OrganizationNotFound(organization_id=organization_id)
        return self._zones[organization_id]


def _total(provider: str, calls: Sequence[RatedCall]) -> ProviderTotal:
    return ProviderTotal(
        provider=provider,
        cost_femto_usd=sum(rated.costs.cost_femto_usd for rated in calls),
        baseline_femto_usd=sum(rated.costs.baseline_femto_usd for rated in calls),
        call_count=sum(rated.call.call_count for rated in calls),
    )
