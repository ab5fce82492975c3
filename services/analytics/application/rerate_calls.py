"""Re-rate calls: bring what was priced before up to date with prices that were set since."""

from __future__ import annotations

import structlog

from services.analytics.application.ports import CostRerater, PriceBook
from services.analytics.domain import limits
from services.analytics.domain.prices import PriceTable
from services.analytics.domain.pricing import RatedCall, price_call

log = structlog.get_logger()


class RerateCalls:
    """Holds every cost equal to what the current table says, however late its price was set."""

    def __init__(self, costs: CostRerater, prices: PriceBook) -> None:
        self._costs = costs
        self._prices = prices

    async def __call__(self) -> None:
        """Re-rates every organization that is behind the table. Safe to run twice at once, and to be cut off anywhere:
        the next run goes on. Raises DependencyUnavailable.
        """
        table = await self._prices.current()
        for organization_id in await self._costs.organizations_before(table.version):
            await self._rerate(organization_id, table)

    async def _rerate(self, organization_id: str, table: PriceTable) -> None:
        version = await self._costs.price_version(organization_id)
        if version is None or version >= table.version:
            return
        since, sequence, changed_count = table.changed_since(version), 0, 0
        while True:
            calls = await self._costs.calls_before(
                organization_id,
                table.version,
                since=since,
                after_sequence=sequence,
                count=limits.RERATED_CALLS,
            )
            if calls:
                changed = [new for old in calls if (new := _rerated(old, table)).costs != old.costs]
                if changed and not await self._costs.replace_costs(
                    organization_id, changed, price_version=table.version
                ):
                    return  # newer prices came: the next run begins with them
                sequence, changed_count = calls[-1].sequence, changed_count + len(changed)
            elif await self._costs.finish_rerating(
                organization_id,
                from_version=version,
                to_version=table.version,
                since=since,
                upto_sequence=sequence,
            ):
                log.info(
                    "costs_rerated",
                    organization_id=organization_id,
                    price_version=table.version,
                    changed_count=changed_count,
                )
                return
            elif await self._costs.price_version(organization_id) != version:
                return  # another process was faster, or the organization was begun again


def _rerated(rated: RatedCall, table: PriceTable) -> RatedCall:
    return RatedCall(rated.sequence, rated.call, price_call(rated.call, table), table.version)
