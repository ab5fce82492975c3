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
from services.quota.domain.terms import Terms


@dataclass(frozen=True, slots=True)
class Quotas:
    """The limits of an organization that have one counter, by meter, as of a sequence of the ledger and a version of
    the entitlement. A limit of each member of a level separately has as many counters as members.
    """

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
        terms, readings = await self._settle(organization_id, self._read)
        if readings.instant.expiry_is_due and await self._free_expired.in_time(organization_id):
            terms, readings = await self._settle(organization_id, self._read)
        self._agenda.note(organization_id, readings.instant)
        states: list[LimitState] = []
        for limit in sorted(terms.limits, key=lambda each: (each.meter, each.limit_id)):
            counter = limit.sole_counter
            if counter is None:
                continue
            usage = readings.usage.get(counter, Usage())
            used = usage.used if limit.kind is LimitKind.PERIOD else 0
            states.append(LimitState(limit, counter, used, usage.held))
        return Quotas(terms.entitlement, tuple(states), readings.applied_sequence)

    async def _read(self, terms: Terms, period_confirmed: bool) -> tuple[Terms, Readings]:  # noqa: FBT001
        counters = list({limit.sole_counter: None for limit in terms.limits if limit.sole_counter})
        readings = await self._counters.read(terms, counters, period_confirmed=period_confirmed)
        return terms, readings
