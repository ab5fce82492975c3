"""Check a quota: may this be used, and with RESERVE, hold it."""

from __future__ import annotations

from collections.abc import Callable

from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.fallback import Fallback
from services.quota.application.find_terms import FindTerms
from services.quota.application.metrics import count_decision
from services.quota.application.ports import (
    Answer,
    CountersBehind,
    CountersMissing,
    MeterCatalog,
    Repeats,
    StoreUnavailable,
    TermsOutdated,
)
from services.quota.application.settle_swept import SettleSwept
from services.quota.domain.checks import Check, validate
from services.quota.domain.errors import UnknownMeter
from services.quota.domain.terms import Terms

# What SettleCounters mends.
_UNSETTLED = (TermsOutdated, CountersMissing, CountersBehind)


class CheckQuota:
    """Answers checks."""

    def __init__(
        self,
        decides: Repeats,
        meters: MeterCatalog,
        settle: SettleSwept,
        *,
        terms: FindTerms,
        agenda: ExpiryAgenda,
        fallback: Fallback,
    ) -> None:
        self._decides = decides
        self._meters = meters
        self._settle = settle
        self._terms = terms
        self._agenda = agenda
        self._fallback = fallback

    async def __call__(self, check: Check) -> Answer:
        """The answer; a denial is one. A hold whose time has passed denies nobody while metering can be reached. While
        the store cannot be reached, the limits' policies answer (see AnswerDegraded).

        Raises what `validate` raises, UnknownMeter, RequestIdReused, and DependencyUnavailable when nothing could be
        decided; a reservation may have been made then, and the same check again gets its answer.
        """
        validate(check)
        meters = [consumption.meter for consumption in check.consumptions]
        if not self._meters.are_known(meters):
            for meter in await self._meters.unknown(meters):
                raise UnknownMeter(meter=meter[:128])

        # Most checks find everything as it was, and go straight through.
        terms = self._terms.last_seen(check.organization_id)
        answer = None
        if terms is not None and self._fallback.is_told(check.organization_id):
            answer = await self._straight(check, terms)
        if answer is None:
            answer = await self._fallback.check(check, lambda: self._decided(check))
        count_decision(answer.decision.outcome, answer.decision.reason)
        return answer

    def repeatable(self, check: Check, answer: Answer) -> Callable[[], bool] | None:
        """Whether the answer that a check was given may be given again to the very same question, whatever its
        request_id. None: no. Else what says whether it still may; it counts as given then.
        """
        organization_id = check.organization_id
        terms = self._terms.last_seen(organization_id)
        if terms is None or not answer.decision.is_denied:
            return None
        holds = self._decides.repeatable(check, terms, answer)
        if holds is None:
            return None

        def again() -> bool:
            is_so = holds() and self._terms.last_seen(organization_id) is terms
            if is_so:
                count_decision(answer.decision.outcome, answer.decision.reason)
            return is_so

        return again

    async def _straight(self, check: Check, terms: Terms) -> Answer | None:
        """The answer by these terms; None when something must be settled first: nothing was changed then."""
        try:
            begun = self._decides.begin(check, terms)
            if isinstance(begun, Answer):
                return begun
            answer = await begun
        except _UNSETTLED:
            return None
        except StoreUnavailable as unavailable:
            return self._fallback.without_store(check, unavailable)
        if answer.decision.is_denied and answer.instant.expiry_is_due:
            return None
        self._fallback.note(check, answer)
        self._agenda.note(check.organization_id, answer.instant)
        return answer

    async def _decided(self, check: Check) -> Answer:
        async def attempt(terms: Terms, period_confirmed: bool) -> Answer:  # noqa: FBT001 - called by Settle
            return await self._decides.check(check, terms, period_confirmed=period_confirmed)

        return await self._settle(
            check.organization_id, attempt, seen=lambda answer: ([answer.instant], answer.decision.is_denied)
        )
