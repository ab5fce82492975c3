"""The ports of upkeep and audit over Redis."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from kit.feed import Position
from services.quota.adapters.redis_counters.calls import (
    RECORDS,
    REMEMBERED_AFTER_END_MS,
    Argument,
    Calls,
    OverRedis,
    kept_until_ms,
)
from services.quota.adapters.redis_counters.keys import (
    counter_field,
    keys_of,
    tracked_from_text,
    tracked_to_text,
)
from services.quota.adapters.redis_counters.recounts import Recounts
from services.quota.application.ports import (
    CountersMissing,
    CounterState,
    Overrun,
    Recount,
)
from services.quota.domain.entitlements import Entitlement, Period
from services.quota.domain.limits import Counter, LevelMeter
from services.quota.domain.maxima import (
    COUNTER_MAX,
    STAGED_AT_ONCE_MAX,
    TOMBSTONES_MAX,
)
from services.quota.domain.usage import Tally

_EPOCH_BYTES = 8

STAGED_MS = 60_000
"""How long counters that are being written wait for the next page of them."""


class RedisUpkeep(OverRedis):
    """CounterUpkeep and CounterAudit."""

    def __init__(self, calls: Calls) -> None:
        super().__init__(calls)
        self._apply = calls.script(RECORDS, "apply")
        self._stage = calls.script("stage")
        self._reset = calls.script("reset")
        self._recounts = Recounts(calls, self.state)

    async def state(self, organization_id: str) -> CounterState | None:
        fields = ["epoch", "sequence", "commit_id", "period_start_us", "period_end_us", "tracked"]
        async with self._answering():
            values: list[Any] = await self._client.execute_command("HMGET", keys_of(organization_id).state, *fields)
        if values[0] is None:
            return None
        # Without what is tracked: written before levels were.
        epoch, sequence, commit_id, start_us, end_us, tracked = ((value or b"").decode() for value in values)
        period = Period(int(start_us), int(end_us))
        return CounterState(epoch, Position(int(sequence), commit_id), period, tracked_from_text(tracked))

    async def reset(
        self,
        entitlement: Entitlement,
        *,
        expected: CounterState | None,
        position: Position,
        used: Mapping[Counter, int],
        tracked: frozenset[LevelMeter] = frozenset(),
        force: bool = False,
    ) -> bool:
        keys = keys_of(entitlement.organization_id)
        period = entitlement.period
        args: list[Argument] = [
            *(_state_arguments(expected) if expected else ("",) * 5),
            entitlement.version,
            period.start_us,
            period.end_us,
            secrets.token_hex(_EPOCH_BYTES),
            position.sequence,
            position.commit_id,
            tracked_to_text(tracked),
            kept_until_ms(period),
            int(force),
            len(used),
        ]
        staged = keys.staged(secrets.token_hex(_EPOCH_BYTES))
        await self._write_staged(staged, used)
        names = [keys.state, keys.entitlement, keys.used(period), keys.held, keys.expiries, staged]
        async with self._answering():
            is_done = bool(await self._reset(keys=names, args=args))
        if used and not is_done:
            async with self._answering():
                await self._client.execute_command("UNLINK", staged)
        return is_done

    async def _write_staged(self, key: str, used: Mapping[Counter, int]) -> None:
        """Writes counters where nobody looks yet, some at a time; what is left there by a process that died expires."""
        counters = list(used.items())
        for first in range(0, len(counters), STAGED_AT_ONCE_MAX):
            args: list[Argument] = [STAGED_MS]
            for counter, quantity in counters[first : first + STAGED_AT_ONCE_MAX]:
                args += (counter_field(counter), min(quantity, COUNTER_MAX))
            async with self._answering():
                await self._stage(keys=[key], args=args)

    async def apply(
        self, organization_id: str, page: Tally, *, expected: CounterState, position: Position
    ) -> Overrun | None:
        keys = keys_of(organization_id)
        args: list[Argument] = [
            *_state_arguments(expected),
            position.sequence,
            position.commit_id,
            REMEMBERED_AFTER_END_MS,
            TOMBSTONES_MAX,
            *_counted(page.used),
        ]
        for reservation_id, draw in page.draws.items():
            args += (reservation_id, int(draw.is_final), *_drawn(draw.quantities))
        names = [keys.state, keys.used(expected.period), keys.held, keys.expiries, keys.tombstones]
        async with self._answering():
            answered = await self._apply(keys=[*names, *map(keys.reservation, page.draws)], args=args)
        match answered:
            case [b"APPLIED", beyond_count, after_count]:
                return Overrun(beyond_count, after_count)
            case [b"MISSING"]:
                raise CountersMissing
            case _:
                return None

    async def recount(self, organization_id: str, *, repair_held: bool = False) -> Recount | None:
        return await self._recounts(organization_id, repair_held=repair_held)


def _state_arguments(state: CounterState) -> tuple[Argument, ...]:
    tracked = tracked_to_text(state.tracked)
    return (state.epoch, state.position.sequence, state.position.commit_id, state.period.start_us, tracked)


def _counted(quantities: Mapping[Counter, int]) -> Iterator[Argument]:
    yield len(quantities)
    for counter, quantity in quantities.items():
        yield counter_field(counter)
        yield max(-COUNTER_MAX, min(quantity, COUNTER_MAX))


def _drawn(quantities: Mapping[str, int]) -> Iterator[Argument]:
    yield len(quantities)
    for meter, quantity in quantities.items():
        yield meter
        yield min(quantity, COUNTER_MAX)
