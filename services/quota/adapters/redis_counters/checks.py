"""The ports of checks and readings over Redis, and what else goes through check.lua."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from kit.errors import RequestIdReused
from services.quota.adapters.redis_counters.answers import Reply
from services.quota.adapters.redis_counters.calls import (
    RECORDS,
    REMEMBERED_AFTER_END_MS,
    Argument,
    Calls,
    OverRedis,
    cannot_now,
    kept_until_ms,
)
from services.quota.adapters.redis_counters.inquiry import Inquiry
from services.quota.adapters.redis_counters.keys import (
    keys_of,
)
from services.quota.adapters.redis_counters.shapes import Shapes, pack, shape_of_reading
from services.quota.application.ports import (
    Answer,
    CheckGroup,
    CountersBehind,
    CountersMissing,
    Extended,
    Grant,
    Readings,
    StoreUnavailable,
    TermsOutdated,
)
from services.quota.domain.checks import Check, require_plain_consumptions
from services.quota.domain.entitlements import Standing
from services.quota.domain.limits import Counter
from services.quota.domain.maxima import (
    REMEMBERED_CONSUMPTION_US,
)
from services.quota.domain.seen import SeenSequences
from services.quota.domain.terms import Terms
from services.quota.domain.windows import WindowCounter

_NOT_ASKED: Sequence[Any] = ()


class RedisChecks(OverRedis):
    """Counters, and of Reservations what is decided like a check."""

    def __init__(self, calls: Calls) -> None:
        super().__init__(calls)
        self._shapes = Shapes()
        self._seen = SeenSequences()
        self._check = calls.script(RECORDS, "check")
        self._check_each = calls.check_of_many()

    def refuse_while_away(self) -> None:
        self._calls.refuse_while_open()

    async def check(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer:
        (answer,) = await self.check_many([check], terms, period_confirmed=period_confirmed)
        if isinstance(answer, RequestIdReused):
            raise answer
        return answer

    async def check_many(
        self, checks: Sequence[Check], terms: Terms, *, period_confirmed: bool = False
    ) -> Sequence[Answer | RequestIdReused]:
        self._calls.refuse_while_open()
        asked = Inquiry(terms, checks, self._shapes)
        reply = await self._ask(asked, terms, period_confirmed=period_confirmed)
        return reply.answers(checks, asked.shapes_of_checks, terms)

    async def check_groups(
        self, groups: Sequence[CheckGroup]
    ) -> Sequence[Sequence[Answer | RequestIdReused] | Exception]:
        self._calls.refuse_while_open()
        if len(groups) == 1:
            return [await self._check_group(groups[0])]
        if not self._calls.is_one_node:
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
            return StoreUnavailable(dependency="Redis") if cannot_now(answered) else answered
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

    def trust(self, organization_id: str) -> None:
        self._seen.forget(organization_id)

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
            kept_until_ms(period),
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
