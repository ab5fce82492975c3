"""Rebuild the counters of one organization from the ledger: after a loss, for a new period, for a limit of a level that
was not counted so far, after a rewound log.
"""

from __future__ import annotations

import structlog

from kit.errors import OutOfRetention
from services.quota.application.find_terms import FindTerms
from services.quota.application.metrics import REBUILDS
from services.quota.application.ports import CounterState, CounterUpkeep, Ledger, Snapshot
from services.quota.application.single_flight import SingleFlight
from services.quota.domain.entitlements import Period
from services.quota.domain.limits import LevelMeter
from services.quota.domain.maxima import TRACKED_IN_PERIOD_MAX
from services.quota.domain.terms import Terms

log = structlog.get_logger()


class RebuildCounters:
    """Sets counters to what the ledger says. Harmless at any time, by any number of processes at once."""

    def __init__(self, upkeep: CounterUpkeep, terms: FindTerms, ledger: Ledger) -> None:
        self._upkeep = upkeep
        self._terms = terms
        self._ledger = ledger
        self._rebuilding = SingleFlight[None]()

    async def __call__(self, organization_id: str, *, force: bool = False) -> None:
        """Rebuilds for the current period and terms, or does nothing when another process did so meanwhile: then only
        with force, for counters that are whole and wrong.

        Raises DependencyUnavailable.
        """
        await self._rebuilding(organization_id, lambda: self._rebuild(organization_id, force=force))

    async def _rebuild(self, organization_id: str, *, force: bool) -> None:
        state = await self._upkeep.state(organization_id)
        terms = await self._terms.kept(organization_id)
        period, tracked = terms.entitlement.period, _tracked(state, terms)
        snapshot, cause = await self._snapshot(organization_id, period, tracked, state)
        done = await self._upkeep.reset(
            terms.entitlement,
            expected=state,
            position=snapshot.position,
            used=snapshot.used,
            tracked=tracked,
            force=force,
        )
        if done:
            REBUILDS.labels(cause).inc()
            sequence = snapshot.position.sequence
            log.info("counters_rebuilt", organization_id=organization_id, cause=cause, sequence=sequence)
            for each in snapshot.incomplete:
                log.warning(
                    "counters_incomplete", organization_id=organization_id, level=each.level.value, meter=each.meter
                )

    async def _snapshot(
        self, organization_id: str, period: Period, tracked: frozenset[LevelMeter], state: CounterState | None
    ) -> tuple[Snapshot, str]:
        """The totals to set, and why."""
        if state is None:
            return await self._ledger.snapshot(organization_id, period, tracked), "lost"
        # The position must not jump: the events between would never be drawn from the reservations that they name.
        applied = state.position
        try:
            snapshot = await self._ledger.snapshot(organization_id, period, tracked, as_of_sequence=applied.sequence)
        except OutOfRetention:
            # So far behind that what came next is gone; no reservation is that old.
            return await self._ledger.snapshot(organization_id, period, tracked), "log_gone"
        if snapshot.position != applied:
            return await self._ledger.snapshot(organization_id, period, tracked), "log_rewound"
        if state.period != period:
            return snapshot, "new_period"
        return snapshot, "damaged" if tracked <= state.tracked else "new_level"


def _tracked(state: CounterState | None, terms: Terms) -> frozenset[LevelMeter]:
    """What is to be counted. Within a period it only grows, so that a limit that comes back finds its counters; unless
    that would be more than metering totals at once.
    """
    if state is None or state.period != terms.entitlement.period:
        return terms.tracked
    grown = terms.tracked | state.tracked
    return grown if len(grown) <= TRACKED_IN_PERIOD_MAX else terms.tracked
