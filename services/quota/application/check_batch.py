"""Check a batch: many checks, each decided by itself, in few calls of the store."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial

from kit.errors import Refused
from services.quota.application.decide_each import decide_each
from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.fallback import Fallback
from services.quota.application.find_terms import FindTerms
from services.quota.application.free_expired import FreeExpired
from services.quota.application.metrics import count_decision
from services.quota.application.ports import Answer, Counters, MeterCatalog
from services.quota.application.settle_counters import SettleCounters
from services.quota.domain.checks import Check, validate
from services.quota.domain.decisions import DenyReason, Outcome
from services.quota.domain.errors import UnknownMeter
from services.quota.domain.loads import loads
from services.quota.domain.terms import Terms


class CheckBatch:
    """Answers many checks at once."""

    def __init__(
        self,
        counters: Counters,
        meters: MeterCatalog,
        settle: SettleCounters,
        free_expired: FreeExpired,
        agenda: ExpiryAgenda,
        *,
        terms: FindTerms,
        fallback: Fallback,
    ) -> None:
        self._counters = counters
        self._meters = meters
        self._settle = settle
        self._free_expired = free_expired
        self._agenda = agenda
        self._terms = terms
        self._fallback = fallback

    async def __call__(self, checks: Sequence[Check]) -> Sequence[Answer | Exception]:
        """What CheckQuota would answer or raise of each, in order. Checks of one organization are decided in their
        order, each seeing what those before it moved; nothing holds between them.
        """
        outcomes: list[Answer | Exception | None] = [None] * len(checks)
        sound: dict[str, list[int]] = defaultdict(list)
        known = await self._known_meters(checks)
        for place, check in enumerate(checks):
            try:
                validate(check)
                for each in check.consumptions:
                    if each.meter not in known:
                        raise UnknownMeter(meter=each.meter[:128])
            except Refused as refusal:
                outcomes[place] = refusal
            else:
                sound[check.organization_id].append(place)

        async def decide(organization_id: str, places: Sequence[int]) -> None:
            answers = await self._of_one(organization_id, [checks[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                outcomes[place] = answer

        await asyncio.gather(*(decide(*of_one) for of_one in sound.items()))
        answered = [outcome for outcome in outcomes if outcome is not None]
        _count(answered)
        return answered

    async def _known_meters(self, checks: Sequence[Check]) -> frozenset[str]:
        named = frozenset([each.meter for check in checks for each in check.consumptions])
        return named.difference(await self._meters.unknown(named))

    async def _of_one(self, organization_id: str, checks: Sequence[Check]) -> Sequence[Answer | Exception]:
        answers: list[Answer | Exception] = []
        for together in loads(checks, partial(self._terms.last_seen, organization_id)):
            answers += await self._some(organization_id, together)
        return answers

    async def _some(self, organization_id: str, checks: Sequence[Check]) -> Sequence[Answer | Exception]:
        try:
            return await self._fallback.checks(organization_id, checks, lambda: self._together(organization_id, checks))
        except Refused as refusal:
            # Those before were decided; of these nothing is known.
            return [refusal] * len(checks)

    async def _together(self, organization_id: str, checks: Sequence[Check]) -> Sequence[Answer | Exception]:
        answers = list(await self._decided(organization_id, checks))
        latest = next((answer for answer in reversed(answers) if isinstance(answer, Answer)), None)
        if latest is None:
            return answers
        denied = [
            place
            for place, answer in enumerate(answers)
            if isinstance(answer, Answer) and answer.decision.is_denied and answer.instant.expiry_is_due
        ]
        if denied and await self._free_expired.in_time(organization_id):
            again = await self._decided(organization_id, [checks[place] for place in denied])
            for place, answer in zip(denied, again, strict=True):
                answers[place] = answer
                latest = answer if isinstance(answer, Answer) else latest
        self._agenda.note(organization_id, latest.instant)
        return answers

    async def _decided(self, organization_id: str, checks: Sequence[Check]) -> Sequence[Answer | Exception]:
        async def attempt(terms: Terms, period_confirmed: bool) -> Sequence[Answer | Exception]:  # noqa: FBT001 - called by Settle
            return await decide_each(self._counters, checks, terms, period_confirmed=period_confirmed)

        return await self._settle(organization_id, attempt)


def _count(outcomes: Sequence[Answer | Exception]) -> None:
    counts: Counter[tuple[Outcome, DenyReason | None]] = Counter()
    for outcome in outcomes:
        if isinstance(outcome, Answer):
            counts[outcome.decision.outcome, outcome.decision.reason] += 1
    for (decided, reason), count in counts.items():
        count_decision(decided, reason, count)
