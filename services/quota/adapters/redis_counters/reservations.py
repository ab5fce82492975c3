"""The port of reservations that were made, and of their ends, over Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kit.errors import NotFound
from services.quota.adapters.redis_counters.calls import (
    RECORDS,
    REMEMBERED_AFTER_END_MS,
    Argument,
    Calls,
    OverRedis,
)
from services.quota.adapters.redis_counters.keys import (
    keys_of,
)
from services.quota.application.ports import (
    Committed,
    Freed,
    Instant,
)
from services.quota.domain.maxima import (
    SETTLE_US,
    SWEPT_AT_ONCE_MAX,
)
from services.quota.domain.reservations import Settlement


class RedisReservations(OverRedis):
    """Of Reservations what is not decided; Expiries."""

    def __init__(self, calls: Calls) -> None:
        super().__init__(calls)
        self._commit = calls.script(RECORDS, "commit")
        self._release = calls.script(RECORDS, "release")
        self._due = calls.script("due")
        self._free = calls.script(RECORDS, "free")

    async def commit(self, organization_id: str, reservation_id: str, actuals: Mapping[str, int]) -> Committed:
        keys = keys_of(organization_id)
        args: list[Argument] = [reservation_id, SETTLE_US, REMEMBERED_AFTER_END_MS]
        for meter, quantity in actuals.items():
            args += (meter, quantity)
        async with self._answering():
            answered = await self._commit(
                keys=[keys.state, keys.held, keys.expiries, keys.reservation(reservation_id)], args=args
            )
        if answered[0] == b"UNKNOWN":
            raise NotFound(what="reservation", name=reservation_id)
        _, expire_us, now_us, next_expiry_us, *meters = answered
        settlement = Settlement(
            held=_positive(meters[0::3], meters[1::3]),
            overrun=_positive(meters[0::3], meters[2::3]),
            expire_us=int(expire_us) if expire_us else None,
        )
        return Committed(settlement, _instant(now_us, next_expiry_us))

    async def release(self, organization_id: str, reservation_id: str) -> bool:
        keys = keys_of(organization_id)
        async with self._answering():
            answered = await self._release(
                keys=[keys.state, keys.expiries, keys.reservation(reservation_id)],
                args=[reservation_id, REMEMBERED_AFTER_END_MS],
            )
        if answered == b"UNKNOWN":
            raise NotFound(what="reservation", name=reservation_id)
        return bool(answered == b"ENDED")

    async def due(self, organization_id: str) -> Sequence[str]:
        async with self._answering():
            ids = await self._due(keys=[keys_of(organization_id).expiries], args=[SWEPT_AT_ONCE_MAX])
        return [str(each, "ascii") for each in ids]

    async def free(self, organization_id: str, reservation_ids: Sequence[str], *, head_sequence: int) -> Freed:
        keys = keys_of(organization_id)
        async with self._answering():
            freed_count, unmatched_count, waiting_count, *instant = await self._free(
                keys=[keys.state, keys.held, keys.expiries, *map(keys.reservation, reservation_ids)],
                args=[head_sequence, REMEMBERED_AFTER_END_MS, *reservation_ids],
            )
        return Freed(freed_count, unmatched_count, waiting_count, _instant(*instant))


def _instant(now: bytes, next_expiry: bytes) -> Instant:
    return Instant(int(now), int(next_expiry) if next_expiry else None)


def _positive(meters: Sequence[bytes], quantities: Sequence[bytes]) -> dict[str, int]:
    pairs = zip(meters, map(int, quantities), strict=True)
    return {meter.decode(): quantity for meter, quantity in pairs if quantity}
