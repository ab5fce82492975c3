"""What the counters of an organization are, and what its open reservations hold: read piece by piece, since a script
keeps everybody else waiting.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kit.feed import Position
from services.quota.adapters.redis_counters.calls import RECORDS, Calls
from services.quota.adapters.redis_counters.keys import counter_from_field, keys_of, tracked_from_text
from services.quota.application.ports import CountersMissing, CounterState, Holds, Recount
from services.quota.domain.entitlements import Period
from services.quota.domain.limits import Counter
from services.quota.domain.maxima import (
    AUDITED_AT_ONCE_MAX,
    AUDITED_COUNTERS_MAX,
    AUDITED_HOLDS_AT_ONCE_MAX,
    AUDITED_HOLDS_MAX,
)

RECOUNTS_MAX = 5
"""How often an audit looks again when a reservation was made, grew, shrank or ended between its looks."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What is held, and by whom, at one moment."""

    held: Mapping[bytes, bytes]
    """By field, the epoch among them; nothing of too many."""
    ends: Mapping[bytes, bytes]
    """Of open reservations, by id. Whatever makes one hold more changes when it ends, or that it is there."""


class Recounts:
    """CounterAudit over Redis.

    The few reservations that fit are added up by the script that reads the counters, in one look. Of more, some are
    added up at a time, and the counters and the list of reservations are read before and after: only when both are the
    same was nothing moved meanwhile that matters. A difference found so is believed when it is found twice.
    """

    def __init__(self, calls: Calls, state: Callable[[str], Awaitable[CounterState | None]]) -> None:
        """state: what is kept of an organization."""
        self._answering = calls.answering
        self._state = state
        self._recount = calls.script(RECORDS, "recount")
        self._holds = calls.script("holds")
        self._sum = calls.script(RECORDS, "sum_holds")
        self._repair = calls.script("repair_holds")

    async def __call__(self, organization_id: str, *, repair_held: bool) -> Recount | None:
        """As CounterAudit."""
        recount: Recount | None = None
        suspected: Mapping[Counter, int] | None = None
        for _ in range(RECOUNTS_MAX):
            state = await self._state(organization_id)
            if state is None:
                return None
            look = await self._look(organization_id)
            is_small = len(look.ends) <= AUDITED_AT_ONCE_MAX
            answered = await self._read(organization_id, state, look.ends if is_small else (), repair_held=repair_held)
            if answered[0] == b"MOVED":
                continue
            recount = _recounted(state.period, answered)
            are_too_many = len(look.ends) > AUDITED_COUNTERS_MAX or answered[7] > AUDITED_HOLDS_MAX
            if recount.held is not None or are_too_many:
                return recount
            if answered[0] == b"OTHERS" and is_small:
                continue
            sums = await self._sums(organization_id, recount.state.epoch, look.ends)
            if sums is None:
                return recount
            if await self._look(organization_id) != look:
                continue
            holds = Holds(_counters(look.held), _counters(sums))
            wrong = {
                counter: holds.by_reservations.get(counter, 0) - holds.kept.get(counter, 0)
                for counter in holds.kept.keys() | holds.by_reservations.keys()
                if holds.by_reservations.get(counter, 0) != holds.kept.get(counter, 0)
            }
            is_believed = not wrong or wrong == suspected
            suspected = wrong
            if is_believed and (not (wrong and repair_held) or await self._repaired(organization_id, look.held, sums)):
                return replace(recount, held=holds)
        return recount

    async def _read(
        self, organization_id: str, state: CounterState, open_ids: Iterable[bytes], *, repair_held: bool
    ) -> list[Any]:
        keys, ids = keys_of(organization_id), [id_.decode() for id_ in open_ids]
        async with self._answering():
            answered: list[Any] = await self._recount(
                keys=[keys.state, keys.used(state.period), keys.held, keys.expiries, *map(keys.reservation, ids)],
                args=[state.period.start_us, AUDITED_COUNTERS_MAX, int(repair_held), AUDITED_HOLDS_AT_ONCE_MAX, *ids],
            )
        if answered[0] == b"MISSING":
            raise CountersMissing
        return answered

    async def _look(self, organization_id: str) -> _Look:
        keys = keys_of(organization_id)
        async with self._answering():
            # One above the most that are added up tells that there are more.
            held, ends = await self._holds(
                keys=[keys.held, keys.expiries], args=[AUDITED_COUNTERS_MAX + 1, AUDITED_HOLDS_MAX]
            )
        return _Look(_pairs(held), _pairs(ends))

    async def _sums(self, organization_id: str, epoch: str, open_ids: Iterable[bytes]) -> Mapping[bytes, int] | None:
        """What the reservations hold, by field; None when they hold under too many counters."""
        keys, sums, left = keys_of(organization_id), dict[bytes, int](), AUDITED_HOLDS_MAX
        names = [keys.reservation(id_.decode()) for id_ in open_ids]
        while names:
            async with self._answering():
                read_count, counters_count, *flat = await self._sum(
                    keys=names[:AUDITED_AT_ONCE_MAX], args=[epoch, AUDITED_HOLDS_AT_ONCE_MAX]
                )
            names = names[read_count:]
            left -= counters_count
            if left < 0:
                return None
            for field, quantity in zip(flat[::2], flat[1::2], strict=True):
                sums[field] = sums.get(field, 0) + int(quantity)
        return sums

    async def _repaired(self, organization_id: str, held: Mapping[bytes, bytes], sums: Mapping[bytes, int]) -> bool:
        """Sets what is wrong to the sums, some at a time; False when one of them moved meanwhile."""
        epoch = held.get(b"epoch", b"")
        wrong = [
            (field, held.get(field, b"0"), sums.get(field, 0))
            for field in (held.keys() | sums.keys()) - {b"epoch"}
            if int(held.get(field, b"0")) != sums.get(field, 0)
        ]
        for first in range(0, len(wrong), AUDITED_HOLDS_AT_ONCE_MAX):
            some = wrong[first : first + AUDITED_HOLDS_AT_ONCE_MAX]
            async with self._answering():
                is_done = await self._repair(
                    keys=[keys_of(organization_id).held], args=[epoch, *(word for each in some for word in each)]
                )
            if not is_done:
                return False
        return True


def _recounted(period: Period, answered: Sequence[Any]) -> Recount:
    outcome, epoch, sequence, commit_id, tracked, used_count, used, _, held, by_reservations = answered
    position = Position(int(sequence), commit_id.decode())
    return Recount(
        CounterState(epoch.decode(), position, period, tracked_from_text(tracked.decode())),
        _counters(_pairs(used)),
        used_is_sample=len(used) // 2 < used_count,
        held=Holds(_counters(_pairs(held)), _counters(_pairs(by_reservations))) if outcome == b"SUMMED" else None,
    )


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _counters(quantities: Mapping[bytes, bytes | int]) -> dict[Counter, int]:
    """Those that are not at 0."""
    found = ((field.decode(), int(quantity)) for field, quantity in quantities.items() if field != b"epoch")
    return {counter_from_field(field): quantity for field, quantity in found if quantity}
