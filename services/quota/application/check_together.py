"""Check together: checks that come while others are decided, or shortly after, share a call of the store."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from services.quota.application.decide_each import decide_groups
from services.quota.application.ports import Answer, CheckGroup, Counters
from services.quota.domain.checks import Check
from services.quota.domain.loads import Load
from services.quota.domain.terms import Terms

_TIMER_SECONDS_MIN = 0.001
"""A timer of uvloop counts whole milliseconds, and less than half of one as nothing. Who comes after the window does
not wait for it.
"""


class _Waiting(NamedTuple):
    check: Check
    answer: asyncio.Future[Answer]


@dataclass(slots=True, eq=False)
class _Group:
    """Checks of one organization that are decided by the same terms."""

    key: tuple[str, int, bool]
    terms: Terms
    period_confirmed: bool
    waiting: deque[_Waiting] = field(default_factory=deque)


class CheckTogether:
    """Decides as Counters.check does, in fewer calls.

    A check that comes when none was sent for the length of the window goes at once. Those that come within it go
    together, of all organizations, and of each organization when its last call is answered. Organizations take turns,
    so that one that asks for much delays the others by one call. What fails in one check fails it alone, and a caller
    that gives up takes nothing from the others.
    """

    def __init__(self, counters: Counters, *, together_max: int, calls_max: int, window_seconds: float = 0.0) -> None:
        """together_max: checks in one call; calls_max: calls at once, each of other organizations; window_seconds: how
        long a check may wait for others, when others came just before it.
        """
        self._counters = counters
        self._together_max = together_max
        self._turns = calls_max
        self._window_seconds = window_seconds if together_max > 1 else 0.0
        self._groups: dict[tuple[str, int, bool], _Group] = {}
        self._line: deque[_Group] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None
        self._is_due = False
        self._closes = 0.0

    async def check(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer:
        """As Counters."""
        return await self.begin(check, terms, period_confirmed=period_confirmed)

    def begin(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> asyncio.Future[Answer]:
        """As Begins. Who cancels the answer gives it up."""
        self._counters.refuse_while_away()
        # The terms by identity: every check of an organization is handed the same ones until they change.
        key = (check.organization_id, id(terms), period_confirmed)
        group = self._groups.get(key)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if group is None:
            group = self._groups[key] = _Group(key, terms, period_confirmed)
            self._line.append(group)
            self._plan()
        elif self._timer is not None:
            self._plan()
        group.waiting.append(_Waiting(check, answer))
        return answer

    def repeatable(self, check: Check, terms: Terms, answer: Answer) -> None:
        """As Repeats: none is."""

    def _plan(self) -> None:
        """Sees to it that who is in line goes when the window closes."""
        if self._is_due or not self._turns or not self._line:
            return
        left = self._closes - monotonic()
        loop = asyncio.get_running_loop()
        if left <= 0:
            if self._timer is not None:
                self._timer.cancel()
            # Not before the loop has handed over what came at the same time.
            self._is_due = True
            loop.call_soon(self._begin_calls)
        elif self._timer is None:
            self._timer = loop.call_later(max(left, _TIMER_SECONDS_MIN), self._begin_calls)

    def _begin_calls(self) -> None:
        self._is_due, self._timer = False, None
        while self._turns and self._line:
            taken = self._taken()
            if not taken:
                continue
            self._turns -= 1
            self._closes = monotonic() + self._window_seconds
            call = asyncio.create_task(self._call(taken))
            # The loop keeps only weak references to tasks.
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    def _taken(self) -> list[tuple[_Group, list[_Waiting]]]:
        """What goes in the next call, of those who are in line."""
        found: list[tuple[_Group, list[_Waiting]]] = []
        load = Load(self._line[0].terms, checks_max=self._together_max)
        is_full = False
        while self._line and not is_full:
            group = self._line.popleft()
            load.turn_to(group.terms)
            taken: list[_Waiting] = []
            waiting = group.waiting
            while waiting:
                if not waiting[0].answer.done():
                    if not load.takes(waiting[0].check):
                        is_full = True
                        break
                    taken.append(waiting[0])
                waiting.popleft()
            if taken:
                found.append((group, taken))
            elif waiting:
                self._line.appendleft(group)
            else:
                del self._groups[group.key]
        return found

    async def _call(self, taken: Sequence[tuple[_Group, list[_Waiting]]]) -> None:
        try:
            groups = [
                CheckGroup([each.check for each in waiting], group.terms, period_confirmed=group.period_confirmed)
                for group, waiting in taken
            ]
            decided = await decide_groups(self._counters, groups)
            for (_, waiting), answers in zip(taken, decided, strict=True):
                _tell(waiting, answers)
        finally:
            self._turns += 1
            for group, _ in taken:
                if group.waiting:
                    self._line.append(group)
                else:
                    del self._groups[group.key]
            self._plan()


def _tell(waiting: Sequence[_Waiting], answers: Sequence[Answer | Exception]) -> None:
    for each, answer in zip(waiting, answers, strict=True):
        if each.answer.done():
            continue
        if isinstance(answer, Exception):
            each.answer.set_exception(answer)
        else:
            each.answer.set_result(answer)
