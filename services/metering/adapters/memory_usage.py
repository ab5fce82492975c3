"""Usage totals in memory, for tests of what stands on them; they keep the promises of the port."""

from __future__ import annotations

from kit.feed import START, Position
from services.metering.application.ports import LedgerReader, UsageAnswer
from services.metering.domain import limits
from services.metering.domain.aggregation import total
from services.metering.domain.events import LedgerEvent
from services.metering.domain.usage_query import UsageQuery


class MemoryUsageReader:
    """UsageReader that adds up the entries of a ledger, one after another."""

    def __init__(self, ledger: LedgerReader) -> None:
        self._ledger = ledger

    async def usage(self, organization_id: str, query: UsageQuery, *, as_of_sequence: int | None) -> UsageAnswer:
        """As UsageReader."""
        entries: list[LedgerEvent] = []
        async for page in self._ledger.read(organization_id, START):
            entries += (entry for entry in page.entries if as_of_sequence is None or entry.sequence <= as_of_sequence)
        position = Position(entries[-1].sequence, entries[-1].commit_id) if entries else START
        return UsageAnswer(tuple(total(entries, query)[: limits.QUERY_ROWS_MAX + 1]), position)
