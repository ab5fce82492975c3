"""Usage that a test sets."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from services.billing.application.ports.usage import UsageTotals
from services.billing.domain.meters import Meter
from services.billing.domain.periods import Period


class MemoryUsage:
    """Usage that a test sets."""

    def __init__(self, *meters: Meter) -> None:
        self._meters = {meter.name: meter for meter in meters}
        self.used: dict[str, UsageTotals] = {}
        """By organization, whatever the period."""

    async def totals(self, organization_id: str, period: Period, meters: Collection[str]) -> UsageTotals:  # noqa: ARG002
        """As Usage."""
        used = self.used.get(organization_id, UsageTotals({}, 0))
        of_meters = {meter: quantity for meter, quantity in used.quantities.items() if meter in meters}
        return UsageTotals(of_meters, used.as_of_sequence)

    async def meters(self) -> Mapping[str, Meter]:
        """As Usage."""
        return self._meters
