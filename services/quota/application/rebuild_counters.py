"""Rebuild the counters of one organization from the ledger: after a loss, for a new period, after a rewound log."""

from __future__ import annotations

import structlog

from kit.errors import LogRewound, OutOfRetention
from services.quota.application.find_entitlement import FindEntitlement
from services.quota.application.metrics import REBUILDS
from services.quota.application.ports import CounterState, CounterUpkeep, Ledger, Snapshot
from services.quota.application.single_flight import SingleFlight
from services.quota.domain.entitlements import Entitlement
from services.quota.domain.limits import Counter
from services.quota.domain.usage import tally

log = structlog.get_logger()


class RebuildCounters:
    """Sets counters to what the ledger says. Harmless at any time, by any number of processes at once."""

    def __init__(self, upkeep: CounterUpkeep, entitlements: FindEntitlement, ledger: Ledger) -> None:
        self._upkeep = upkeep
        self._entitlements = entitlements
        self._ledger = ledger
        self._rebuilding = SingleFlight[None]()

    async def __call__(self, organization_id: str) -> None:
        """Rebuilds for the current period, or does nothing when another process did so meanwhile.

        Raises DependencyUnavailable.
        """
        await self._rebuilding(organization_id, lambda: self._rebuild(organization_id))

    async def _rebuild(self, organization_id: str) -> None:
        state = await self._upkeep.state(organization_id)
        entitlement = await self._entitlements.kept(organization_id)
        snapshot = await self._ledger.snapshot(organization_id, entitlement.period)
        cause = "lost"
        if state is not None:
            cause = "new_period" if state.period != entitlement.period else "damaged"
            try:
                snapshot = await self._as_of(state, entitlement, snapshot)
            except LogRewound:
                cause = "log_rewound"
            except OutOfRetention:
                # No reservation is as old as the events that are gone, so none is left undrawn.
                cause = "events_gone"
        done = await self._upkeep.reset(entitlement, expected=state, position=snapshot.position, used=snapshot.used)
        if done:
            REBUILDS.labels(cause).inc()
            sequence = snapshot.position.sequence
            log.info("counters_rebuilt", organization_id=organization_id, cause=cause, sequence=sequence)

    async def _as_of(self, state: CounterState, entitlement: Entitlement, snapshot: Snapshot) -> Snapshot:
        """The totals as of the position that is applied already, which is further back than the snapshot's.

        The position must not jump: the events between would never be drawn from the reservations that they name.
        """
        head = snapshot.position.sequence
        used: dict[Counter, int] = dict(snapshot.used)
        async for page in self._ledger.read(entitlement.organization_id, state.position):
            between = [entry for entry in page.entries if entry.sequence <= head]
            for counter, quantity in tally(between, entitlement.period).used.items():
                used[counter] = used.get(counter, 0) - quantity
        return Snapshot(used, state.position)
