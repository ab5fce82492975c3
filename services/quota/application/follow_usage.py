"""Follow the usage ledger: the effect of its entries on the counters."""

from __future__ import annotations

import structlog

from kit.feed import Page, Position
from services.quota.application.metrics import OVERRUNS
from services.quota.application.ports import CountersMissing, CounterUpkeep
from services.quota.application.rebuild_counters import RebuildCounters
from services.quota.domain.usage import UsageEntry, tally

log = structlog.get_logger()


class UsageEffect:
    """kit.feed.Effect on the counters. An organization without counters is of no interest: they begin with the first
    check or listing that needs them.
    """

    def __init__(self, upkeep: CounterUpkeep, rebuild: RebuildCounters) -> None:
        self._upkeep = upkeep
        self._rebuild = rebuild

    async def position(self, key: str) -> Position | None:
        """As Effect."""
        state = await self._upkeep.state(key)
        return None if state is None else state.position

    async def apply(self, key: str, after: Position, page: Page[UsageEntry]) -> bool:
        """As Effect."""
        state = await self._upkeep.state(key)
        if state is None or state.position != after:
            return False
        effect = tally(page.entries, state.period, state.tracked)
        try:
            overrun = await self._upkeep.apply(key, effect, expected=state, position=page.position)
        except CountersMissing:
            await self._rebuild(key)
            return False
        if overrun is None:
            return False
        if overrun.beyond_count or overrun.after_count:
            OVERRUNS.labels("beyond").inc(overrun.beyond_count)
            OVERRUNS.labels("after").inc(overrun.after_count)
            log.warning(
                "reservations_overrun",
                organization_id=key,
                beyond_count=overrun.beyond_count,
                after_count=overrun.after_count,
                sequence=page.position.sequence,
            )
        return True

    async def rebuild(self, key: str) -> None:
        """As Effect: after a rewound log. Nothing is begun here."""
        if await self._upkeep.state(key) is not None:
            await self._rebuild(key)
