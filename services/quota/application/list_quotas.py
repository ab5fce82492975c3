"""List quotas: every limit of an organization with what is counted against it."""

from __future__ import annotations

from dataclasses import dataclass

from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.free_expired import FreeExpired
from services.quota.application.ports import Counters, Readings
from services.quota.application.settle_counters import SettleCounters
from services.quota.domain.decisions import LimitState
from services.quota.domain.entitlements import Entitlement
from services.quota.domain.limits import LimitKind, Usage


@dataclass(frozen=True, slots=True)
class Quotas:
    """The limits of an organization, by meter, as of a sequence of the ledger and a version of the entitlement."""

    entitlement: Entitlement
    states: tuple[LimitState, ...]
    applied_sequence: int


class ListQuotas:
    """Reads limits and counters together."""

    def __init__(
        self, counters: Counters, settle: SettleCounters, free_expired: FreeExpired, agenda: ExpiryAgenda
    ) -> None:
        self._counters = counters
        self._settle = settle
        self._free_expired = free_expired
        self._agenda = agenda

    async def __call__(self, organization_id: str) -> Quotas:
        """The limits as they are in force, and the counters in one look. Raises DependencyUnavailable."""
        entitlement, readings = await self._settle(organization_id, self._read)
        if readings.instant.expiry_is_due and await self._free_expired.in_time(organization_id):
            entitlement, readings = await self._settle(organization_id, self._read)
        self._agenda.note(organization_id, readings.instant)
        states: list[LimitState] = []
        for limit in sorted(entitlement.limits, key=lambda each: (each.counter.meter, each.limit_id)):
            usage = readings.usage.get(limit.counter, Usage())
            used = usage.used if limit.kind is LimitKind.PERIOD else 0
            states.append(LimitState(limit, used, usage.held))
        return Quotas(entitlement, tuple(states), readings.applied_sequence)

    async def _read(self, entitlement: Entitlement, period_confirmed: bool) -> tuple[Entitlement, Readings]:  # noqa: FBT001
        counters = sorted({limit.counter for limit in entitlement.limits}, key=lambda each: each.meter)
        readings = await self._counters.read(entitlement, counters, period_confirmed=period_confirmed)
        return entitlement, readings
