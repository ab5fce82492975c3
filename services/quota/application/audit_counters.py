"""Audit the counters of one organization against the ledger and its own reservations, and put right what is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from services.quota.application.metrics import AUDITS, DRIFTS
from services.quota.application.ports import CounterAudit, CountersMissing, Ledger, Recount
from services.quota.application.rebuild_counters import RebuildCounters
from services.quota.domain.audit import Drift, Part, drift_of_held, drift_of_used

log = structlog.get_logger()

# A repair is a compare-and-set against followers who move on meanwhile.
_REPAIRS_MAX = 5


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found."""

    drifts: tuple[Drift, ...] = ()
    """As they were found first."""
    is_missing: bool = False
    """Whether a part of the counters was gone."""
    is_conclusive: bool = True
    """False when reservations came and went too fast, or are too many, to add up what they hold; or when nothing is
    kept, or the ledger was rewound.
    """
    is_repaired: bool = False
    """Whether something was wrong and another look found nothing wrong any more."""


class AuditCounters:
    """Compares, reports and repairs. It costs one look at Redis and one statement of metering."""

    def __init__(self, counters: CounterAudit, ledger: Ledger, rebuild: RebuildCounters) -> None:
        self._counters = counters
        self._ledger = ledger
        self._rebuild = rebuild

    async def __call__(self, organization_id: str, *, repair: bool) -> Audit:
        """What was found. Never an alarm for counters that merely lag behind the ledger: they are compared as of the
        position that they include. Repairs keep that position, and what open reservations hold. Raises
        DependencyUnavailable.
        """
        found = await self._look(organization_id)
        self._report(organization_id, found)
        if not repair or not (found.drifts or found.is_missing):
            return found
        again = found
        for _ in range(_REPAIRS_MAX):
            await self._repair(organization_id, again)
            again = await self._look(organization_id)
            if not again.drifts and not again.is_missing:
                log.warning("counters_repaired", organization_id=organization_id)
                return Audit(found.drifts, found.is_missing, found.is_conclusive, is_repaired=True)
        return found

    async def _look(self, organization_id: str) -> Audit:
        try:
            recount = await self._counters.recount(organization_id)
        except CountersMissing:
            return Audit(is_missing=True)
        if recount is None:
            return Audit(is_conclusive=False)
        drifts = await self._drift_of_used(organization_id, recount)
        if recount.held is not None:
            drifts += drift_of_held(recount.held.kept, recount.held.by_reservations)
        return Audit(drifts, is_conclusive=recount.held is not None)

    async def _drift_of_used(self, organization_id: str, recount: Recount) -> tuple[Drift, ...]:
        state = recount.state
        snapshot = await self._ledger.snapshot(
            organization_id, state.period, state.tracked, as_of_sequence=state.position.sequence
        )
        if snapshot.position != state.position:
            # A rewound ledger: its follower is about to find out, and rebuilds.
            return ()
        return drift_of_used(recount.used, snapshot.used, unknown=snapshot.incomplete, only_kept=recount.used_is_sample)

    async def _repair(self, organization_id: str, found: Audit) -> None:
        parts = {drift.part for drift in found.drifts}
        if found.is_missing or Part.USED in parts:
            await self._rebuild(organization_id, force=True)
        if Part.HELD in parts:
            await self._counters.recount(organization_id, repair_held=True)

    @staticmethod
    def _report(organization_id: str, found: Audit) -> None:
        is_wrong = found.drifts or found.is_missing
        AUDITS.labels("drift" if is_wrong else "clean" if found.is_conclusive else "inconclusive").inc()
        if found.is_missing:
            DRIFTS.labels("missing").inc()
            log.error("counters_missing", organization_id=organization_id)
        for drift in found.drifts:
            DRIFTS.labels(drift.part.value).inc()
            log.error(
                "counter_drifted",
                organization_id=organization_id,
                part=drift.part.value,
                level=drift.counter.scope.kind.value,
                scope_id=drift.counter.scope.id,
                meter=drift.counter.meter,
                kept=drift.kept,
                expected=drift.expected,
            )
