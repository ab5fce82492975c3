"""Check a quota: may this be used, and with RESERVE, hold it."""

from __future__ import annotations

from services.quota.application.fallback import Fallback
from services.quota.application.metrics import count_decision
from services.quota.application.ports import Answer, Decides, MeterCatalog
from services.quota.application.settle_swept import SettleSwept
from services.quota.domain.checks import Check, validate
from services.quota.domain.errors import UnknownMeter
from services.quota.domain.terms import Terms


class CheckQuota:
    """Answers checks."""

    def __init__(
        self,
        decides: Decides,
        meters: MeterCatalog,
        settle: SettleSwept,
        *,
        fallback: Fallback,
    ) -> None:
        self._decides = decides
        self._meters = meters
        self._settle = settle
        self._fallback = fallback

    async def __call__(self, check: Check) -> Answer:
        """The answer; a denial is one. A hold whose time has passed denies nobody while metering can be reached. While
        the store cannot be reached, the limits' policies answer (see AnswerDegraded).

        Raises what `validate` raises, UnknownMeter, RequestIdReused, and DependencyUnavailable when nothing could be
        decided; a reservation may have been made then, and the same check again gets its answer.
        """
        validate(check)
        for meter in await self._meters.unknown([consumption.meter for consumption in check.consumptions]):
            raise UnknownMeter(meter=meter[:128])

        answer = await self._fallback.check(check, lambda: self._decided(check))
        count_decision(answer.decision.outcome, answer.decision.reason)
        return answer

    async def _decided(self, check: Check) -> Answer:
        async def attempt(terms: Terms, period_confirmed: bool) -> Answer:  # noqa: FBT001 - called by Settle
            return await self._decides.check(check, terms, period_confirmed=period_confirmed)

        return await self._settle(
            check.organization_id, attempt, seen=lambda answer: ([answer.instant], answer.decision.is_denied)
        )
