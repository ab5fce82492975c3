"""Report revenue: how the business stands."""

from __future__ import annotations

from datetime import UTC, datetime

from kit.clock import Clock
from kit.errors import InvalidField
from services.billing.application.ports.revenue import RevenueLists
from services.billing.domain.revenue import COMPARED_WITH, OVERAGE_WITHIN, RevenueReport, report_revenue

_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""Nothing was sold before; and what a report compares with is to be a date still."""


class ReportRevenue:
    """Reports on all organizations together."""

    def __init__(self, lists: RevenueLists, clock: Clock) -> None:
        self._lists = lists
        self._clock = clock

    async def __call__(self, as_of: datetime | None) -> RevenueReport:
        """As of a moment; None: now. Raises InvalidField for one that lies ahead, and DependencyUnavailable."""
        now = self._clock.now()
        if as_of is not None and as_of > now:
            raise InvalidField(field="as_of_time", problem="lies ahead")
        if as_of is not None and as_of < _EARLIEST:
            raise InvalidField(field="as_of_time", problem=f"before {_EARLIEST:%Y}")
        moment = as_of or now
        return report_revenue(
            as_of=moment,
            now=await self._lists.standings(moment),
            before=await self._lists.standings(moment - COMPARED_WITH),
            overage=await self._lists.overage(after=moment - OVERAGE_WITHIN, until=moment),
            metered=await self._lists.metered(until=moment),
        )
