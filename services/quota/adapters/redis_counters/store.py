"""The ports of counters, reservations and entitlements over Redis: arguments for the scripts, and their answers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError, ResponseError

from kit.errors import DependencyUnavailable, RequestIdReused
from kit.feed import Position
from kit.redis.client import Commands, Script
from services.quota.adapters.redis_counters.budget import answered_within
from services.quota.adapters.redis_counters.documents import (
    entitlement_from_document,
    entitlement_to_document,
    limits_from_document,
    limits_to_document,
    terms_from_document,
    terms_to_document,
)
from services.quota.adapters.redis_counters.keys import (
    counter_field,
    keys_of,
    level_field,
    tracked_from_text,
    tracked_to_text,
)
from services.quota.application.ports import (
    Answer,
    CountersMissing,
    CounterState,
    Freed,
    InForce,
    Instant,
    Kept,
    Overrun,
    Readings,
    Reservation,
    TermsOutdated,
)
from services.quota.domain.checks import Applied, Check, Mode, content_digest, matching
from services.quota.domain.decisions import Decision, decide
from services.quota.domain.entitlements import Entitlement, Period, Standing
from services.quota.domain.limits import Counter, LevelMeter, Usage
from services.quota.domain.maxima import COUNTER_MAX, SWEPT_AT_ONCE_MAX
from services.quota.domain.terms import OwnLimits, Terms
from services.quota.domain.usage import Tally

_SCRIPTS = Path(__file__).with_name("scripts")
_EPOCH_BYTES = 8

KEPT_AFTER_PERIOD_MS = 40 * 24 * 3_600_000
"""Longer than the ledger accepts events back, so that nothing is dropped that could still change."""
REMEMBERED_AFTER_END_MS = 3_600_000
"""How long a retry of a reservation that ended gets its first answer."""

COMMANDS_IN_FLIGHT_MAX = 8
"""Redis runs one script at a time: more commands would not be answered sooner, but wait on their connections while
their budget runs. Waiting for their turn, they are bounded by the deadline of their own call instead.
"""

# What a server says that cannot work now, also when one of our scripts ran into it. Any other error is a defect.
_CANNOT_NOW = ("OOM ", "MISCONF", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS")

Argument = str | int


class RedisCounters:
    """Counters, CounterUpkeep, Expiries and TermsShelf. Atomic by one script per method."""

    def __init__(self, client: Commands, *, command_seconds: float) -> None:
        """command_seconds: how long to wait for the answer to one command."""
        self._client = client
        self._command_seconds = command_seconds
        self._turn = asyncio.Semaphore(COMMANDS_IN_FLIGHT_MAX)
        self._check = Script(client, _SCRIPTS / "check.lua")
        self._apply = Script(client, _SCRIPTS / "apply.lua")
        self._reset = Script(client, _SCRIPTS / "reset.lua")
        self._due = Script(client, _SCRIPTS / "due.lua")
        self._free = Script(client, _SCRIPTS / "free.lua")
        self._put_entitlement = Script(client, _SCRIPTS / "put_entitlement.lua")
        self._put_limits = Script(client, _SCRIPTS / "put_limits.lua")

    async def check(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer:
        applied, entitlement = matching(terms.limits, check), terms.entitlement
        counters = [counter for counter, _ in check.counters]
        reserves = check.mode is Mode.RESERVE
        answered = await self._ask(
            terms,
            period_confirmed=period_confirmed,
            counters=[
                (counter, "" if consumption.quantity is None else consumption.quantity)
                for counter, consumption in check.counters
            ],
            applied=applied,
            tracked={tracks for each in applied if (tracks := each.limit.tracks)},
            reserve_us=check.reserve_us if reserves else 0,
            reservation_id=check.request_id,
            digest=content_digest(check) if reserves else "",
        )
        if answered[0] == b"REUSED":
            raise RequestIdReused(request_id=check.request_id)
        _, outcome, numbers, first_terms, expire_us, *instant = answered
        version, period, standing = entitlement.version, entitlement.period, entitlement.standing
        limits = [each.limit for each in applied]
        if answered[0] == b"REPEATED":
            version, period, limits = terms_from_document(first_terms)
            standing = Standing.ACTIVE
        decided_us, sequence, usage = _numbers(numbers, counters)
        decision = decide(limits, usage, check, standing=standing)
        if answered[0] == b"DECIDED":
            _assert_twins(decision, outcome, check)
        return Answer(
            decision=decision,
            reservation=Reservation(check.request_id, int(expire_us)) if expire_us else None,
            entitlement_version=version,
            period=period,
            applied_sequence=sequence,
            decided_us=decided_us,
            instant=_instant(*instant),
        )

    async def read(self, terms: Terms, counters: Sequence[Counter], *, period_confirmed: bool = False) -> Readings:
        answered = await self._ask(
            terms,
            period_confirmed=period_confirmed,
            counters=[(counter, "") for counter in counters],
            tracked=terms.tracked,
        )
        _, _, numbers, _, _, *instant = answered
        _, sequence, usage = _numbers(numbers, counters)
        return Readings(usage, sequence, _instant(*instant))

    async def _ask(
        self,
        terms: Terms,
        *,
        period_confirmed: bool,
        counters: Sequence[tuple[Counter, Argument]],
        tracked: Collection[LevelMeter] = (),
        applied: tuple[Applied, ...] = (),
        reserve_us: int = 0,
        reservation_id: str = "",
        digest: str = "",
    ) -> list[Any]:
        entitlement = terms.entitlement
        keys = keys_of(entitlement.organization_id)
        period = entitlement.period
        names = [keys.entitlement, keys.state, keys.used(period), keys.held, keys.expiries]
        if reserve_us:
            names.append(keys.reservation(reservation_id))
        args: list[Argument] = [
            entitlement.version,
            period.start_us,
            period.end_us,
            terms.own.commit_id,
            int(period_confirmed),
            int(entitlement.standing is Standing.ACTIVE),
            reserve_us,
            reservation_id,
            digest,
            terms_to_document(entitlement.version, period, [each.limit for each in applied]) if reserve_us else "",
            _kept_until_ms(period),
            len(counters),
        ]
        for counter, quantity in counters:
            args += (counter_field(counter), quantity)
        args += (len(tracked), *map(level_field, tracked))
        places = {counter: place for place, (counter, _) in enumerate(counters, start=1)}
        args.append(len(applied))
        for each in applied:
            limit = each.limit
            value, hard = ("", "") if limit.value is None or limit.hard is None else (limit.value, limit.hard)
            args += (places[each.counter], limit.kind.value, value, hard)
        async with self._answering():
            answered: list[Any] = await self._check(keys=names, args=args)
        if answered[0] == b"OUTDATED":
            raise TermsOutdated
        if answered[0] == b"MISSING":
            raise CountersMissing
        return answered

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
            _kept_until_ms(period),
        ]
        for counter, quantity in used.items():
            args += (counter_field(counter), min(quantity, COUNTER_MAX))
        names = [keys.state, keys.entitlement, keys.used(period), keys.held, keys.expiries]
        async with self._answering():
            return bool(await self._reset(keys=names, args=args))

    async def apply(
        self, organization_id: str, page: Tally, *, expected: CounterState, position: Position
    ) -> Overrun | None:
        keys = keys_of(organization_id)
        args: list[Argument] = [
            *_state_arguments(expected),
            position.sequence,
            position.commit_id,
            REMEMBERED_AFTER_END_MS,
            *_counted(page.used),
        ]
        for reservation_id, draw in page.draws.items():
            args += (reservation_id, int(draw.is_final), *_drawn(draw.quantities))
        names = [keys.state, keys.used(expected.period), keys.held, keys.expiries]
        async with self._answering():
            answered = await self._apply(keys=[*names, *map(keys.reservation, page.draws)], args=args)
        match answered:
            case [b"APPLIED", beyond_count, after_count]:
                return Overrun(beyond_count, after_count)
            case [b"MISSING"]:
                raise CountersMissing
            case _:
                return None

    async def due(self, organization_id: str) -> Sequence[str]:
        async with self._answering():
            ids = await self._due(keys=[keys_of(organization_id).expiries], args=[SWEPT_AT_ONCE_MAX])
        return [str(each, "ascii") for each in ids]

    async def free(self, organization_id: str, reservation_ids: Sequence[str], *, head_sequence: int) -> Freed:
        keys = keys_of(organization_id)
        async with self._answering():
            freed_count, waiting_count, *instant = await self._free(
                keys=[keys.state, keys.held, keys.expiries, *map(keys.reservation, reservation_ids)],
                args=[head_sequence, REMEMBERED_AFTER_END_MS, *reservation_ids],
            )
        return Freed(freed_count, waiting_count, _instant(*instant))

    async def kept(self, organization_id: str) -> Kept:
        fields = ["document", "limits_document", "limits_sequence", "limits_commit_id"]
        async with self._answering():
            values: list[Any] = await self._client.execute_command(
                "HMGET", keys_of(organization_id).entitlement, *fields
            )
        document, limits, sequence, commit_id = values
        return Kept(
            None if document is None else entitlement_from_document(document),
            None if limits is None else _own_limits(organization_id, sequence, commit_id, limits),
        )

    async def limits_position(self, organization_id: str) -> Position | None:
        async with self._answering():
            values: list[Any] = await self._client.execute_command(
                "HMGET", keys_of(organization_id).entitlement, "limits_sequence", "limits_commit_id"
            )
        return None if values[0] is None else Position(int(values[0]), values[1].decode())

    async def put_limits(self, own: OwnLimits) -> OwnLimits:
        sequence, commit_id, document = await self._keep_limits(own, expected=None)
        return _own_limits(own.organization_id, sequence, commit_id, document)

    async def replace_limits(self, own: OwnLimits, *, expected: Position) -> bool:
        return bool(await self._keep_limits(own, expected=expected))

    async def _keep_limits(self, own: OwnLimits, *, expected: Position | None) -> Any:
        args: list[Argument] = [
            own.sequence,
            own.commit_id,
            limits_to_document(own.limits),
            time.time_ns() // 1_000_000 + KEPT_AFTER_PERIOD_MS,
            *((0,) if expected is None else (1, expected.sequence, expected.commit_id)),
        ]
        async with self._answering():
            return await self._put_limits(keys=[keys_of(own.organization_id).entitlement], args=args)

    async def entitlement(self, organization_id: str) -> Entitlement | None:
        async with self._answering():
            document = await self._client.execute_command("HGET", keys_of(organization_id).entitlement, "document")
        return None if document is None else entitlement_from_document(document)

    async def read_up_to(self, organization_id: str) -> Position | None:
        async with self._answering():
            values: list[Any] = await self._client.execute_command(
                "HMGET", keys_of(organization_id).entitlement, "read_sequence", "read_commit_id"
            )
        return None if values[0] is None else Position(int(values[0]), values[1].decode())

    async def put(self, found: InForce) -> Entitlement:
        document: bytes = await self._keep(found, expected=None)
        return entitlement_from_document(document)

    async def replace(self, found: InForce, *, expected: Position) -> bool:
        return bool(await self._keep(found, expected=expected))

    async def _keep(self, found: InForce, *, expected: Position | None) -> Any:
        entitlement, period = found.entitlement, found.entitlement.period
        args: list[Argument] = [
            entitlement.version,
            period.start_us,
            period.end_us,
            entitlement_to_document(entitlement),
            _kept_until_ms(period),
            found.position.sequence,
            found.position.commit_id,
            *((0,) if expected is None else (1, expected.sequence, expected.commit_id)),
        ]
        async with self._answering():
            return await self._put_entitlement(keys=[keys_of(entitlement.organization_id).entitlement], args=args)

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        async with self._turn:
            try:
                async with answered_within(self._command_seconds):
                    yield
            except (TimeoutError, RedisError, OSError) as error:
                if type(error) is ResponseError and not any(state in str(error) for state in _CANNOT_NOW):
                    raise
                raise DependencyUnavailable(dependency="Redis") from error


def _assert_twins(decision: Decision, outcome: bytes, check: Check) -> None:
    # What was held follows the script; an answer that said otherwise would be worse than none.
    if decision.outcome.value.encode() != outcome:
        raise AssertionError(f"check.lua says {outcome!r} and decide says {decision.outcome} of {check}")


def _own_limits(organization_id: str, sequence: bytes, commit_id: bytes, document: bytes) -> OwnLimits:
    return OwnLimits(
        organization_id=organization_id,
        sequence=int(sequence),
        commit_id=commit_id.decode(),
        limits=limits_from_document(document),
    )


def _numbers(numbers: bytes, counters: Sequence[Counter]) -> tuple[int, int, dict[Counter, Usage]]:
    decided_us, sequence, *counts = map(int, numbers.split(b","))
    pairs = zip(counts[::2], counts[1::2], strict=True)
    usage = {counter: Usage(used, held) for counter, (used, held) in zip(counters, pairs, strict=True)}
    return decided_us, sequence, usage


def _instant(now: bytes, next_expiry: bytes) -> Instant:
    return Instant(int(now), int(next_expiry) if next_expiry else None)


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


def _kept_until_ms(period: Period) -> int:
    # From now, should billing name a period that is long over: keys must not vanish as they are written.
    return max(period.end_us // 1_000, time.time_ns() // 1_000_000) + KEPT_AFTER_PERIOD_MS
