"""Extend a reservation: may the work go on, and hold what it still needs."""

from __future__ import annotations

from services.quota.application.fallback import Fallback
from services.quota.application.metrics import RESTORED, count_decision
from services.quota.application.ports import Extended, MeterCatalog, Reservations
from services.quota.application.settle_swept import SettleSwept
from services.quota.domain.checks import Check
from services.quota.domain.errors import UnknownMeter
from services.quota.domain.reservations import validate_extension
from services.quota.domain.terms import Terms


class ExtendReservation:
    """Keeps reservations alive, and restores those that were lost."""

    def __init__(
        self,
        reservations: Reservations,
        meters: MeterCatalog,
        settle: SettleSwept,
        *,
        fallback: Fallback,
    ) -> None:
        self._reservations = reservations
        self._meters = meters
        self._settle = settle
        self._fallback = fallback

    async def __call__(self, target: Check) -> Extended:
        """As `Reservations.extend`; the same again changes nothing more. Holds whose time has passed deny nobody while
        metering can be reached. While the store cannot be reached, AnswerDegraded.extend answers. Raises besides what
        `validate_extension` raises, UnknownMeter, and DependencyUnavailable when nothing could be decided: the hold is
        as it was, or as it was asked for.
        """
        validate_extension(target)
        for meter in await self._meters.unknown([consumption.meter for consumption in target.consumptions]):
            raise UnknownMeter(meter=meter[:128])

        extended = await self._fallback.extend(target, lambda: self._decided(target))
        count_decision(extended.answer.decision.outcome, extended.answer.decision.reason)
        if extended.restored:
            RESTORED.inc()
        return extended

    async def _decided(self, target: Check) -> Extended:
        async def attempt(terms: Terms, period_confirmed: bool) -> Extended:  # noqa: FBT001 - called by Settle
            return await self._reservations.extend(target, terms, period_confirmed=period_confirmed)

        return await self._settle(
            target.organization_id,
            attempt,
            seen=lambda extended: ([extended.answer.instant], extended.answer.decision.is_denied),
        )
