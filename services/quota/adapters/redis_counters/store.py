"""The ports of counters, reservations and entitlements over Redis: arguments for the scripts, and their answers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter as Counts
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from redis.exceptions import RedisError, ResponseError

from kit.breaker import Breaker
from kit.errors import DependencyUnavailable, NotFound, RequestIdReused
from kit.feed import Position
from kit.redis.client import Commands, Script, within
from kit.redis.cluster import ClusterCommands
from services.quota.adapters.redis_counters.answers import Reply
from services.quota.adapters.redis_counters.documents import (
    entitlement_from_document,
    entitlement_to_document,
    limits_from_document,
    limits_to_document,
)
from services.quota.adapters.redis_counters.inquiry import Inquiry
from services.quota.adapters.redis_counters.keys import (
    counter_field,
    counter_from_field,
    keys_of,
    level_field,
    tracked_from_text,
    tracked_to_text,
)
from services.quota.adapters.redis_counters.recounts import Recounts
from services.quota.adapters.redis_counters.shapes import Shapes, pack, shape_of_reading
from services.quota.application.ports import (
    Answer,
    CheckGroup,
    Committed,
    CountersBehind,
    CountersMissing,
    CounterState,
    Extended,
    Freed,
    Grant,
    InForce,
    Instant,
    Kept,
    Overrun,
    Ranking,
    Readings,
    Recount,
    StoreUnavailable,
    TermsOutdated,
)
from services.quota.domain.checks import Check, require_plain_consumptions
from services.quota.domain.entitlements import Entitlement, Period, Standing
from services.quota.domain.limits import Counter, LevelMeter, most
from services.quota.domain.maxima import (
    COUNTER_MAX,
    REMEMBERED_AFTER_END_US,
    REMEMBERED_CONSUMPTION_US,
    SCANNED_COUNTERS_MAX,
    SETTLE_US,
    STAGED_AT_ONCE_MAX,
    SWEPT_AT_ONCE_MAX,
    TOMBSTONES_MAX,
)
from services.quota.domain.reservations import Settlement
from services.quota.domain.seen import SeenSequences
from services.quota.domain.terms import OwnLimits, Terms
from services.quota.domain.usage import Tally
from services.quota.domain.windows import WindowCounter

_SCRIPTS = Path(__file__).with_name("scripts")
_RECORDS = _SCRIPTS / "records.lua"
_EPOCH_BYTES = 8
_SCANNED_AT_ONCE = 1_000

KEPT_AFTER_PERIOD_MS = 40 * 24 * 3_600_000
"""Longer than the ledger accepts events back, so that nothing is dropped that could still change."""
STAGED_MS = 60_000
"""How long counters that are being written wait for the next page of them."""
REMEMBERED_AFTER_END_MS = REMEMBERED_AFTER_END_US // 1_000

COMMANDS_IN_FLIGHT_MAX = 8
"""Redis runs one script at a time: more commands would not be answered sooner, but wait on their connections while
their budget runs. Waiting for their turn, they are bounded by the deadline of their own call instead.
"""

# What a server says that cannot work now, also when one of our scripts ran into it. Any other error is a defect.
_CANNOT_NOW = ("OOM ", "MISCONF", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS")

Argument = str | int | bytes

_NOT_ASKED: Sequence[Any] = ()


class RedisCounters:
    """Counters, Reservations, CounterUpkeep, Expiries and TermsShelf. Atomic by one script per method."""

    def __init__(self, client: Commands, *, command_seconds: float, breaker: Breaker | None = None) -> None:
        """command_seconds: how long to wait for the answer to one command; breaker: while it is open none is sent."""
        self._breaker = breaker or Breaker()
        is_cluster = isinstance(client, ClusterCommands)
        self._client = client = within(client, seconds=command_seconds)
        self._answers = _Answering(self._breaker)
        # A script sees the keys of one slot.
        self._is_one_node = not is_cluster
        self._shapes = Shapes()
        self._seen = SeenSequences()
        self._check = Script(client, _RECORDS, _SCRIPTS / "check.lua")
        check = (_SCRIPTS / "check.lua").read_text()
        function = f"local function check(KEYS, ARGV)\n{check}\nend\n"
        self._check_each = Script(client, _RECORDS, function, _SCRIPTS / "each.lua")
        self._apply = Script(client, _RECORDS, _SCRIPTS / "apply.lua")
        self._stage = Script(client, _SCRIPTS / "stage.lua")
        self._reset = Script(client, _SCRIPTS / "reset.lua")
        self._commit = Script(client, _RECORDS, _SCRIPTS / "commit.lua")
        self._release = Script(client, _RECORDS, _SCRIPTS / "release.lua")
        self._due = Script(client, _SCRIPTS / "due.lua")
        self._scan = Script(client, _SCRIPTS / "scan.lua")
        self._free = Script(client, _RECORDS, _SCRIPTS / "free.lua")
        self._put_entitlement = Script(client, _SCRIPTS / "put_entitlement.lua")
        self._recounts = Recounts(client, self._answering, self.state)
        self._put_limits = Script(client, _SCRIPTS / "put_limits.lua")

    async def check(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer:
        (answer,) = await self.check_many([check], terms, period_confirmed=period_confirmed)
        if isinstance(answer, RequestIdReused):
            raise answer
        return answer

    async def check_many(
        self, checks: Sequence[Check], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer | RequestIdReused]:
        self._refuse_while_open()
        asked = Inquiry(terms, checks, self._shapes)
        reply = await self._ask(asked, terms, period_confirmed=period_confirmed)
        return reply.answers(checks, asked.shapes_of_checks, terms)

    async def check_groups(
        self, groups: Sequence[CheckGroup]
    ) -> Sequence[Sequence[Answer | RequestIdReused] | Exception]:
        self._refuse_while_open()
        if len(groups) == 1 or not self._is_one_node:
            return await asyncio.gather(*map(self._check_group, groups))
        outcomes: list[Sequence[Answer | RequestIdReused] | Exception] = []
        asked: list[tuple[int, Inquiry]] = []
        keys: list[str] = []
        args: list[Argument] = [b""]
        sizes: list[tuple[int, int]] = []
        for place, group in enumerate(groups):
            outcomes.append(_NOT_ASKED)
            try:
                inquiry = Inquiry(group.terms, group.checks, self._shapes)
                own_keys, own_args = self._call_of(inquiry, group.terms, period_confirmed=group.period_confirmed)
            except Exception as error:  # noqa: BLE001 - a defect of this group
                outcomes[place] = error
                continue
            asked.append((place, inquiry))
            sizes.append((len(own_keys), len(own_args)))
            keys += own_keys
            args += own_args
        args[0] = pack(sizes)
        async with self._answering():
            answered = await self._check_each(keys=keys, args=args)
        for (place, inquiry), answer in zip(asked, answered, strict=True):
            outcomes[place] = self._outcome(inquiry, groups[place], answer)
        return outcomes

    async def _check_group(self, group: CheckGroup) -> Sequence[Answer | RequestIdReused] | Exception:
        try:
            return await self.check_many(group.checks, group.terms, period_confirmed=group.period_confirmed)
        except Exception as error:  # noqa: BLE001 - it is the outcome of this group
            return error

    def _outcome(
        self, asked: Inquiry, group: CheckGroup, answered: Any
    ) -> Sequence[Answer | RequestIdReused] | Exception:
        if isinstance(answered, ResponseError):
            return StoreUnavailable(dependency="Redis") if _cannot_now(answered) else answered
        try:
            reply = self._reply(group.terms, answered)
            return reply.answers(group.checks, asked.shapes_of_checks, group.terms)
        except Exception as error:  # noqa: BLE001 - it is the outcome of this group
            return error

    async def check_all(
        self, checks: Sequence[Check], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer]:
        require_plain_consumptions(checks)
        asked = Inquiry(terms, checks, self._shapes)
        reply = await self._ask(asked, terms, period_confirmed=period_confirmed, all_or_none=True)
        answers = reply.answers(checks, asked.shapes_of_checks, terms)
        return [answer for answer in answers if isinstance(answer, Answer)]

    async def extend(self, target: Check, terms: Terms, *, period_confirmed: bool = False) -> Extended:
        asked = Inquiry(terms, [target], self._shapes, extends=True)
        reply = await self._ask(asked, terms, period_confirmed=period_confirmed)
        return reply.extension(target, asked.shapes_of_checks[0], terms)

    async def register(
        self, grants: Sequence[Grant], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer]:
        checks = [grant.check for grant in grants]
        asked = Inquiry(terms, checks, self._shapes, registers=[grant.digest for grant in grants])
        reply = await self._ask(asked, terms, period_confirmed=period_confirmed)
        return reply.registered(checks, asked.shapes_of_checks, terms)

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

    async def read(
        self,
        terms: Terms,
        counters: Sequence[Counter],
        windows: Sequence[WindowCounter] = (),
        *,
        period_confirmed: bool = False,
    ) -> Readings:
        shape = shape_of_reading(terms, counters, windows)
        reply = await self._ask(Inquiry(terms, (), self._shapes, [shape]), terms, period_confirmed=period_confirmed)
        return reply.readings(shape)

    async def _ask(self, asked: Inquiry, terms: Terms, *, period_confirmed: bool, all_or_none: bool = False) -> Reply:
        keys, args = self._call_of(asked, terms, period_confirmed=period_confirmed, all_or_none=all_or_none)
        async with self._answering():
            answered = await self._check(keys=keys, args=args)
        return self._reply(terms, answered)

    def _call_of(
        self, asked: Inquiry, terms: Terms, *, period_confirmed: bool, all_or_none: bool = False
    ) -> tuple[list[str], list[Argument]]:
        """Keys and arguments of check.lua."""
        keys, period = keys_of(terms.organization_id), terms.entitlement.period
        header = [
            terms.entitlement.version,
            terms.own.commit_id,
            period.start_us,
            period.end_us,
            int(period_confirmed),
            int(terms.entitlement.standing is Standing.ACTIVE),
            _kept_until_ms(period),
            REMEMBERED_CONSUMPTION_US // 1_000,
            REMEMBERED_AFTER_END_MS,
            asked.checks,
            self._seen.of(terms.organization_id),
            int(all_or_none),
        ]
        names = [keys.entitlement, keys.state, keys.used(period), keys.held, keys.expiries, *asked.keys]
        return names, [pack(header), *[shape.packed for shape in asked.shapes]]

    def _reply(self, terms: Terms, answered: Any) -> Reply:
        if answered == [b"OUTDATED"]:
            raise TermsOutdated
        if answered == [b"MISSING"]:
            raise CountersMissing
        if answered == [b"BEHIND"]:
            raise CountersBehind
        reply = Reply(answered)
        self._seen.note(terms.organization_id, reply.applied_sequence)
        return reply

    def trust(self, organization_id: str) -> None:
        self._seen.forget(organization_id)

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
            _kept_until_ms(period),
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

    def _answering(self) -> _Answering:
        return self._answers

    def _refuse_while_open(self) -> None:
        """Before the work of asking, which would be in vain."""
        if self._breaker.is_open:
            raise StoreUnavailable(dependency="Redis")


class _Answering:
    """Around one command: its turn, and what the breaker learns from how it ends. A class, since a generator for each
    command would cost several times as much.
    """

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._turn = asyncio.Semaphore(COMMANDS_IN_FLIGHT_MAX)

    async def __aenter__(self) -> None:
        await self._turn.acquire()
        # Asked when it has its turn: those that waited for theirs while it opened wait no longer.
        if not self._breaker.admits():
            self._turn.release()
            raise StoreUnavailable(dependency="Redis")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._turn.release()
        if error is None:
            self._breaker.answered()
        elif not isinstance(error, TimeoutError | RedisError | OSError | DependencyUnavailable):
            self._breaker.abandoned()
        else:
            # A refusal is an answer: nobody waits for the next one in vain.
            self._breaker.answered() if isinstance(error, ResponseError) else self._breaker.failed()
            if type(error) is ResponseError and not _cannot_now(error):
                return
            raise StoreUnavailable(dependency="Redis") from error


def _cannot_now(error: ResponseError) -> bool:
    return any(state in str(error) for state in _CANNOT_NOW)


def _own_limits(organization_id: str, sequence: bytes, commit_id: bytes, document: bytes) -> OwnLimits:
    return OwnLimits(
        organization_id=organization_id,
        sequence=int(sequence),
        commit_id=commit_id.decode(),
        limits=limits_from_document(document),
    )


def _instant(now: bytes, next_expiry: bytes) -> Instant:
    return Instant(int(now), int(next_expiry) if next_expiry else None)


def _positive(meters: Sequence[bytes], quantities: Sequence[bytes]) -> dict[str, int]:
    pairs = zip(meters, map(int, quantities), strict=True)
    return {meter.decode(): quantity for meter, quantity in pairs if quantity}


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
