"""Extend a reservation: may the work go on, and hold what it still needs."""

from __future__ import annotations

from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.fallback import Fallback
from services.quota.application.free_expired import FreeExpired
from services.quota.application.metrics import RESTORED, count_decision
from services.quota.application.ports import Extended, MeterCatalog, Reservations
from services.quota.application.settle_counters import SettleCounters
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
        settle: SettleCounters,
        free_expired: FreeExpired,
        agenda: ExpiryAgenda,
        *,
        fallback: Fallback,
    ) -> None:
        self._reservations = reservations
        self._meters = meters
        self._settle = settle
        self._free_expired = free_expired
        self._agenda = agenda
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

        organization_id = target.organization_id
        extended = await self._settle(organization_id, attempt)
        is_denied, expiry_is_due = extended.answer.decision.is_denied, extended.answer.instant.expiry_is_due
        if is_denied and expiry_is_due and await self._free_expired.in_time(organization_id):
            extended = await self._settle(organization_id, attempt)
        self._agenda.note(organization_id, extended.answer.instant)
        return extended
