"""Usage that a test sets."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from services.billing.application.ports.usage import UsageTotals
from services.billing.domain.meters import Meter
from services.billing.domain.periods import Period


@dataclass(frozen=True, slots=True)
class Used:
    """An event of the ledger in memory."""

    meter: str
    quantity: int
    at: datetime


class MemoryUsage:
    """Usage that a test sets."""

    def __init__(self, *meters: Meter) -> None:
        self._meters = {meter.name: meter for meter in meters}
        self.used: dict[str, UsageTotals] = {}
        """By organization, whatever the period; it goes before the events."""
        self.events: defaultdict[str, list[Used]] = defaultdict(list)
        """The ledger of each organization; an event's sequence is its place, from 1."""

    async def totals(
        self, organization_id: str, period: Period, meters: Collection[str], *, as_of_sequence: int | None = None
    ) -> UsageTotals:
        """As Usage."""
        ledger = self.events[organization_id][:as_of_sequence]
        quantities = Counter[str]()
        for event in ledger:
            if period.start <= event.at < period.end:
                quantities[event.meter] += event.quantity
        used = self.used.get(organization_id, UsageTotals(quantities, len(ledger)))
        of_meters = {meter: quantity for meter, quantity in used.quantities.items() if meter in meters}
        return UsageTotals(of_meters, used.as_of_sequence)

    async def meters(self) -> Mapping[str, Meter]:
        """As Usage."""
        return self._meters
