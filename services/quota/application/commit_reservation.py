"""Commit a reservation: say what it came to."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.fallback import Fallback
from services.quota.application.metrics import OVERRUNS
from services.quota.application.ports import Reservations
from services.quota.domain.reservations import Settlement, require_reservation_id, validate_actuals

log = structlog.get_logger()


class CommitReservation:
    """Trims holds to what was really used."""

    def __init__(self, reservations: Reservations, agenda: ExpiryAgenda, fallback: Fallback) -> None:
        self._reservations = reservations
        self._agenda = agenda
        self._fallback = fallback

    async def __call__(self, organization_id: str, reservation_id: str, actuals: Mapping[str, int]) -> Settlement:
        """What is left to settle; the same again changes nothing. Raises what `require_reservation_id` and
        `validate_actuals` raise, NotFound, and DependencyUnavailable.
        """
        require_reservation_id(reservation_id)
        validate_actuals(actuals)
        await self._fallback.ending(organization_id, reservation_id)
        committed = await self._reservations.commit(organization_id, reservation_id, actuals)
        self._agenda.note(organization_id, committed.instant)
        settlement = committed.settlement
        if settlement.overrun:
            # Told by the caller; the ledger counts and bills it, and says so again when its events come.
            OVERRUNS.labels("committed").inc()
            log.warning("commit_overrun", organization_id=organization_id, overrun=dict(settlement.overrun))
        return settlement
