"""Query usage: exact totals of one organization."""

from __future__ import annotations

from collections.abc import Collection

from services.metering.application.ports import Interval, LedgerReader, MeterCatalog, Totals
from services.metering.domain.errors import UnknownMeter


class QueryUsage:
    """Totals an interval of event time."""

    def __init__(self, ledger: LedgerReader, meters: MeterCatalog) -> None:
        self._ledger = ledger
        self._meters = meters

    async def __call__(
        self,
        organization_id: str,
        interval: Interval,
        *,
        meters: Collection[str] = (),
        as_of_sequence: int = 0,
    ) -> Totals:
        """The totals of the meters asked for (none: all) in a half-open interval; an empty interval has none.

        as_of_sequence 0 means the head. The answer's position says what was included. Raises UnknownMeter and
        DependencyUnavailable.
        """
        known = await self._meters.meters()
        for meter in meters:
            if meter not in known:
                raise UnknownMeter(meter=meter)
        totals = await self._ledger.totals(organization_id, interval, as_of_sequence=as_of_sequence or None)
        wanted = {name: quantity for name, quantity in totals.quantities.items() if not meters or name in meters}
        return Totals(wanted, totals.position)
