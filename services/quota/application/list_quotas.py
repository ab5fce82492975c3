"""List quotas: every limit of an organization with what is counted against it."""

from __future__ import annotations

from dataclasses import dataclass

from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.free_expired import FreeExpired
from services.quota.application.ports import Counters, Readings
from services.quota.application.settle_counters import SettleCounters
from services.quota.domain.decisions import LimitState
from services.quota.domain.entitlements import Entitlement
from services.quota.domain.limits import Counter, Limit, LimitKind, Usage
from services.quota.domain.terms import Terms
from services.quota.domain.windows import WindowCounter


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
            states.append(_state(limit, counter, readings))
        return Quotas(terms.entitlement, tuple(states), readings.applied_sequence)

    async def _read(self, terms: Terms, period_confirmed: bool) -> tuple[Terms, Readings]:  # noqa: FBT001
        counted = [(limit.window, counter) for limit in terms.limits if (counter := limit.sole_counter) is not None]
        counters = list(dict.fromkeys(counter for window, counter in counted if window is None))
        windows = list(
            dict.fromkeys(WindowCounter(counter, window) for window, counter in counted if window is not None)
        )
        return terms, await self._counters.read(terms, counters, windows, period_confirmed=period_confirmed)


def _state(limit: Limit, counter: Counter, readings: Readings) -> LimitState:
    if limit.window is not None:
        rate = readings.rates[WindowCounter(counter, limit.window)]
        return LimitState(limit, counter, rate.quantity, 0, empty_us=rate.empty_us)
    usage = readings.usage.get(counter, Usage())
    return LimitState(limit, counter, usage.used if limit.kind is LimitKind.PERIOD else 0, usage.held)
