"""Letting go of what was kept long enough."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from services.billing.domain.leftovers import Leftover


class Leftovers(Protocol):
    """What is kept for a while only, of all organizations."""

    async def drop(self, kind: Leftover, *, before: datetime, count: int) -> int:
        """Drops up to `count` whose time was before that; answers how many. What is still to be handled or sent has
        no such time, and stays.
        """
        ...
