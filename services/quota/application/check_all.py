"""Check all: consumptions of one organization that are counted together or not at all."""

from __future__ import annotations

from collections.abc import Sequence

from services.quota.application.fallback import Fallback
from services.quota.application.metrics import count_decision
from services.quota.application.ports import Answer, Counters, MeterCatalog
from services.quota.application.settle_swept import SettleSwept
from services.quota.domain.checks import Check, validate
from services.quota.domain.errors import UnknownMeter
from services.quota.domain.terms import Terms


class CheckAll:
    """Answers several consumptions, all or none."""

    def __init__(
        self,
        counters: Counters,
        meters: MeterCatalog,
        settle: SettleSwept,
        *,
        fallback: Fallback,
    ) -> None:
        self._counters = counters
        self._meters = meters
        self._settle = settle
        self._fallback = fallback

    async def __call__(self, organization_id: str, checks: Sequence[Check]) -> Sequence[Answer]:
        """The answers, in order; when one is a denial, nothing was counted. Every check is a consumption of the
        organization without a request_id. Raises as CheckQuota.
        """
        for check in checks:
            validate(check)
        named = [consumption.meter for check in checks for consumption in check.consumptions]
        for meter in await self._meters.unknown(named):
            raise UnknownMeter(meter=meter[:128])

        answers = await self._fallback.check_all(
            organization_id, checks, lambda: self._decided(organization_id, checks)
        )
        for answer in answers:
            count_decision(answer.decision.outcome, answer.decision.reason)
        return answers

    async def _decided(self, organization_id: str, checks: Sequence[Check]) -> Sequence[Answer]:
        async def attempt(terms: Terms, period_confirmed: bool) -> Sequence[Answer]:  # noqa: FBT001 - called by Settle
            return await self._counters.check_all(checks, terms, period_confirmed=period_confirmed)

        return await self._settle(
            organization_id,
            attempt,
            seen=lambda answers: (
                [answer.instant for answer in answers],
                any(answer.decision.is_denied for answer in answers),
            ),
        )
