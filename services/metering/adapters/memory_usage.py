"""Usage totals in memory, for tests of what stands on them; they keep the promises of the port."""

from __future__ import annotations

from functools import partial

from services.metering.adapters.memory import MemoryLedger
from services.metering.application.ports import UsageAnswer
from services.metering.domain import limits
from services.metering.domain.aggregation import event_value, total
from services.metering.domain.events import UsageEvent
from services.metering.domain.meters import Aggregation, Meter
from services.metering.domain.usage_query import UsageQuery


class MemoryUsageReader:
    """UsageReader that adds up the entries of a ledger, one after another."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    async def usage(self, organization_id: str, query: UsageQuery, *, as_of_sequence: int | None) -> UsageAnswer:
        """As UsageReader."""
        entries, position = self._ledger.known(organization_id, as_of_sequence=as_of_sequence)
        if query.windows:
            for meter in query.meters:
                counts = partial(_may_count, meter=meter)
                self._ledger.refuse_dropped(organization_id, query, meter.aggregation, counts)
        return UsageAnswer(tuple(total(entries, query)[: limits.QUERY_ROWS_MAX + 1]), position)


def _may_count(event: UsageEvent, *, meter: Meter) -> bool:
    return meter.aggregation is Aggregation.UNIQUE_COUNT or event_value(event, meter) is not None
