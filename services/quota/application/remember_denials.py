"""Remember denials: one that nothing can lift for a while is given again without asking the store."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic

from services.quota.application.ports import Answer, Begins
from services.quota.domain.checks import Applied, Check, Mode
from services.quota.domain.decisions import Counted, Remedy, decide
from services.quota.domain.entitlements import Standing
from services.quota.domain.limits import Counter, Usage
from services.quota.domain.maxima import DENIAL_REMEMBERED_SECONDS, REMEMBERED_DENIALS_MAX
from services.quota.domain.terms import Terms

_MICROSECONDS = 1_000_000
# What a release can lift, or time alone does soon, is asked again.
_LASTING = frozenset({Remedy.RESET, Remedy.NOTHING})


@dataclass(frozen=True, slots=True)
class _Denial:
    terms: Terms
    needed: tuple[int, ...]
    answer: Answer
    until: float


class RememberDenials:
    """Decides as Counters.check does, but a denial by usage holds for 200 ms at most, and never past the reset.

    It answers checks of the same counters and the same terms that need at least as much of every meter. Only those that
    may be answered anew: one with RESERVE, or a consumption with an id, may be the retry of one that was allowed, and
    gets its first answer from the store. And none that brings limits of its own.
    """

    def __init__(self, decides: Begins, *, now: Callable[[], float] = monotonic) -> None:
        """now: seconds of a clock that never steps back."""
        self._decides = decides
        self._now = now
        self._denials: OrderedDict[tuple[str, ...], _Denial] = OrderedDict()

    async def check(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer:
        """As Counters."""
        begun = self.begin(check, terms, period_confirmed=period_confirmed)
        return begun if isinstance(begun, Answer) else await begun

    def begin(self, check: Check, terms: Terms, *, period_confirmed: bool = False) -> Answer | asyncio.Future[Answer]:
        """As Begins."""
        if check.brought or check.mode is Mode.RESERVE or (check.mode is Mode.CONSUME and check.request_id):
            return self._decides.begin(check, terms, period_confirmed=period_confirmed)
        key = _counters_key(check, terms)
        denial = self._denials.get(key)
        if denial is not None and denial.terms is terms and self._now() < denial.until and _needs(check, denial.needed):
            return denial.answer if denial.needed == _needed(check) else _decided_anew(denial.answer, check)
        asked_at = self._now()
        begun = self._decides.begin(check, terms, period_confirmed=period_confirmed)
        if isinstance(begun, Answer):
            return begun

        def learn(done: asyncio.Future[Answer]) -> None:
            if not done.cancelled() and done.exception() is None and done.result().decision.is_denied:
                self._remember(key, check, terms, done.result(), asked_at)

        begun.add_done_callback(learn)
        return begun

    def repeatable(self, check: Check, terms: Terms, answer: Answer) -> Callable[[], bool] | None:
        """As Repeats."""
        if check.mode is Mode.RESERVE or (check.mode is Mode.CONSUME and check.request_id):
            return None
        denial = self._denials.get(_counters_key(check, terms))
        # Other terms may have come while the answer was on its way to who asked.
        if denial is None or denial.answer is not answer or denial.terms is not terms:
            return None
        return lambda: self._now() < denial.until

    def _remember(self, key: tuple[str, ...], check: Check, terms: Terms, answer: Answer, asked_at: float) -> None:
        if answer.decision.remedy not in _LASTING or terms.entitlement.standing is not Standing.ACTIVE:
            return
        # A window's room is not in the answer, so what depends on one is asked again.
        if any(state.limit.window is not None for state in answer.decision.states):
            return
        # From when it was asked for, not from when it was answered: so old may the counters be.
        left = (answer.period.end_us - answer.decided_us) / _MICROSECONDS
        until = asked_at + min(DENIAL_REMEMBERED_SECONDS, left)
        self._denials[key] = _Denial(terms, _needed(check), answer, until)
        self._denials.move_to_end(key)
        if len(self._denials) > REMEMBERED_DENIALS_MAX:
            self._denials.popitem(last=False)


def _counters_key(check: Check, terms: Terms) -> tuple[str, ...]:
    """What the limits of these terms can see of a check: its organization, its meters, and the ids of the levels that
    some limit is of.
    """
    return (
        check.organization_id,
        *check.visible(terms.parts),
        *[each.meter for each in check.consumptions],
    )


def _needed(check: Check) -> tuple[int, ...]:
    return tuple([each.needed for each in check.consumptions])


def _decided_anew(denied: Answer, check: Check) -> Answer:
    """The same counters with what this check needs of them: more may deny, and nothing may help any more."""
    states = denied.decision.states
    usage: dict[Counter, Usage] = {}
    for state in states:
        # A concurrency limit shows no usage of the counter that it may share with a period limit.
        used = max(state.used, usage.get(state.counter, Usage()).used)
        usage[state.counter] = Usage(used, state.held)
    applied = [Applied(state.limit, state.counter) for state in states]
    decision, _ = decide(sorted(applied, key=lambda each: each.limit.order), Counted(usage, {}), check)
    return replace(denied, decision=decision)


def _needs(check: Check, least: tuple[int, ...]) -> bool:
    return all(each.needed >= needed for each, needed in zip(check.consumptions, least, strict=True))
