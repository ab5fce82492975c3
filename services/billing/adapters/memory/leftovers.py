"""What is kept for a while only, in memory."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

from services.billing.domain.leftovers import Leftover


class MemoryLeftovers:
    """Leftovers over lists of times; None: still to be handled or sent."""

    def __init__(self) -> None:
        self.kept: defaultdict[Leftover, list[datetime | None]] = defaultdict(list)

    async def drop(self, kind: Leftover, *, before: datetime, count: int) -> int:
        """As Leftovers."""
        over = [time for time in self.kept[kind] if time is not None and time < before][:count]
        for time in over:
            self.kept[kind].remove(time)
        return len(over)
