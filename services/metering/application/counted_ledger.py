"""Counts what becomes of events, where it is decided and committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from services.metering.application import metrics
from services.metering.application.ports import LedgerWriter
from services.metering.domain.acceptance import Outcome
from services.metering.domain.events import UsageEvent


class CountedLedger:
    """A LedgerWriter that tells metrics what became of the events of another one, once they are committed. What was
    rolled back is not counted, and what is sent again is counted as the DUPLICATE that it is.
    """

    def __init__(self, ledger: LedgerWriter) -> None:
        self._ledger = ledger

    async def append(self, events: Sequence[UsageEvent], /, *, now: datetime) -> Sequence[Outcome]:
        """As LedgerWriter."""
        outcomes = await self._ledger.append(events, now=now)
        for status, count in Counter(outcome.status for outcome in outcomes).items():
            metrics.DECIDED_EVENTS.labels(status.value).inc(count)
        return outcomes
