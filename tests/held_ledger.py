"""A ledger whose transactions the test ends by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.metering.adapters.memory import MemoryLedger
from services.metering.application.ports import Interval
from services.metering.domain.acceptance import Outcome
from services.metering.domain.events import UsageEvent


@dataclass
class Transaction:
    """One transaction under way."""

    events: Sequence[UsageEvent]
    now: datetime
    may_end: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def names(self) -> list[str]:
        return [event.id for event in self.events]


class HeldLedger(MemoryLedger):
    """A ledger whose transactions wait until the test lets them end, while it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[Transaction] = []
        self.holds = True
        self.poison: set[str] = set()

    async def append(self, events: Sequence[UsageEvent], *, now: datetime) -> Sequence[Outcome]:
        transaction = Transaction(events, now)
        self.begun.append(transaction)
        if self.holds:
            await transaction.may_end
        if self.poison.intersection(transaction.names):
            raise ValueError("poison")
        return await super().append(events, now=now)

    async def count(self, organization_id: str = "a") -> int:
        totals = await self.totals(organization_id, Interval(None, None), as_of_sequence=None)
        return totals.quantities.get("api_calls", 0)
