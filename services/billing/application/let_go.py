"""Let go: drops what was kept long enough."""

from __future__ import annotations

import structlog

from kit.clock import Clock
from services.billing.application.ports.leftovers import Leftovers
from services.billing.domain import limits
from services.billing.domain.leftovers import KEPT

log = structlog.get_logger()


class LetGo:
    """Keeps the tables of what is over from growing for ever."""

    def __init__(self, leftovers: Leftovers, clock: Clock) -> None:
        self._leftovers = leftovers
        self._clock = clock

    async def __call__(self) -> None:
        """Drops what is over, in transactions of a bounded size, and no more of them than a bounded number: what is
        left goes the next time. Raises DependencyUnavailable; what was dropped by then stays so.
        """
        for kind, kept in KEPT.items():
            before, dropped = self._clock.now() - kept, 0
            for _ in range(limits.LET_GO_TRANSACTIONS_MAX):
                count = await self._leftovers.drop(kind, before=before, count=limits.LET_GO_AT_ONCE)
                dropped += count
                if count < limits.LET_GO_AT_ONCE:
                    break
            if dropped:
                log.info("let_go", kind=kind.value, count=dropped)
