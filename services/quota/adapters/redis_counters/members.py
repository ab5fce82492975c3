"""The port of members over Redis."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Collection, Mapping, Sequence

from services.quota.adapters.redis_counters.calls import (
    Calls,
    OverRedis,
)
from services.quota.adapters.redis_counters.keys import (
    counter_from_field,
    keys_of,
    level_field,
)
from services.quota.application.ports import (
    Ranking,
)
from services.quota.domain.entitlements import Period
from services.quota.domain.limits import Counter, LevelMeter, most
from services.quota.domain.maxima import (
    SCANNED_COUNTERS_MAX,
)

_SCANNED_AT_ONCE = 1_000


class RedisMembers(OverRedis):
    """Members."""

    def __init__(self, calls: Calls) -> None:
        super().__init__(calls)
        self._scan = calls.script("scan")

    async def rank(
        self, organization_id: str, period: Period, rankings: Collection[Ranking], *, at_most: int
    ) -> Mapping[Ranking, Sequence[str]]:
        keys = keys_of(organization_id)
        wanted = {ranking.of for ranking in rankings}
        held = await self._scanned(keys.held, wanted)
        used = held
        if not all(ranking.held_alone for ranking in rankings):
            used = held + await self._scanned(keys.used(period), wanted)
        return {
            ranking: most(ranking.of, held if ranking.held_alone else used, at_most=at_most) for ranking in rankings
        }

    async def _scanned(self, key: str, wanted: Collection[LevelMeter]) -> Counts[Counter]:
        """What a hash says of the counters of members. In steps, so that nobody waits long."""
        found: dict[str, int] = {}
        levels = sorted(map(level_field, wanted))
        cursor, left = "0", SCANNED_COUNTERS_MAX
        while left > 0:
            async with self._answering():
                following, *fields = await self._scan(keys=[key], args=[cursor, _SCANNED_AT_ONCE, *levels])
            found.update({field.decode(): int(value) for field, value in zip(fields[::2], fields[1::2], strict=True)})
            cursor, left = following.decode(), left - _SCANNED_AT_ONCE
            if cursor == "0":
                break
        # A field may come twice while the hash grows, but is one counter.
        return Counts({counter_from_field(field): quantity for field, quantity in found.items()})
