"""Check together: checks that come while others are decided share the next call of the store."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.quota.application.decide_each import decide_each
from services.quota.application.ports import Answer, Counters
from services.quota.domain.checks import Check
from services.quota.domain.loads import Load
from services.quota.domain.terms import Terms


@dataclass(slots=True)
class _Waiting:
    check: Check
    answer: asyncio.Future[Answer]


@dataclass(slots=True)
class _Group:
    """Checks of one organization that are decided by the same terms."""

    terms: Terms
    period_confirmed: bool
    waiting: deque[_Waiting] = field(default_factory=deque)
    is_in_line: bool = False
    """It has its place among the groups, or its call is under way."""


class CheckTogether:
    """Decides as Counters.check does, in fewer calls.

    The first check of an organization goes at once; those that come while it is under way go together in the next call.
    Organizations take turns, so that one that asks for much delays the others by one call of theirs. What fails in one
    check fails it alone, and a caller that gives up takes nothing from the others.
    """

    def __init__(self, counters: Counters, *, together_max: int, calls_max: int) -> None:
        """together_max: checks in one call; calls_max: calls at once, each of another organization."""
        self._counters = counters
        self._together_max = together_max
        self._turns = calls_max
        self._groups: dict[tuple[str, int, bool], _Group] = {}
        self._line: deque[tuple[str, int, bool]] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    async def check(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer:
        """As Counters."""
        if self._together_max == 1:
            return await self._counters.check(check, terms, period_confirmed=period_confirmed)
        # The terms by identity: every check of an organization is handed the same ones until they change.
        key = (check.organization_id, id(terms), period_confirmed)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(terms, period_confirmed)
        waiting = _Waiting(check, asyncio.get_running_loop().create_future())
        group.waiting.append(waiting)
        if not group.is_in_line:
            group.is_in_line = True
            self._line.append(key)
            self._begin_calls()
        return await waiting.answer

    def _begin_calls(self) -> None:
        while self._turns and self._line:
            key = self._line.popleft()
            self._turns -= 1
            call = asyncio.create_task(self._call(key))
            # The loop keeps only weak references to tasks.
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, key: tuple[str, int, bool]) -> None:
        group = self._groups[key]
        taken: list[_Waiting] = []
        load = Load(group.terms, checks_max=self._together_max)
        while group.waiting:
            waiting = group.waiting[0]
            if not waiting.answer.done():
                if not load.takes(waiting.check):
                    break
                taken.append(waiting)
            group.waiting.popleft()
        try:
            if taken:
                await self._decide(group, taken)
        finally:
            self._turns += 1
            if group.waiting:
                self._line.append(key)
            else:
                del self._groups[key]
            self._begin_calls()

    async def _decide(self, group: _Group, taken: list[_Waiting]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = await decide_each(
                self._counters,
                [each.check for each in taken],
                group.terms,
                period_confirmed=group.period_confirmed,
            )
        except Exception as error:  # noqa: BLE001 - it is those callers' to see
            answers = [error] * len(taken)
        for each, answer in zip(taken, answers, strict=True):
            if each.answer.done():
                continue
            if isinstance(answer, Exception):
                each.answer.set_exception(answer)
            else:
                each.answer.set_result(answer)
