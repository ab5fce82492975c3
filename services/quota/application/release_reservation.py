"""Release a reservation: no more usage comes, and its hold may go."""

from __future__ import annotations

from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.fallback import Fallback
from services.quota.application.free_expired import FreeExpired
from services.quota.application.ports import Reservations
from services.quota.domain.reservations import require_reservation_id


class ReleaseReservation:
    """Ends reservations before their time."""

    def __init__(
        self, reservations: Reservations, free_expired: FreeExpired, agenda: ExpiryAgenda, fallback: Fallback
    ) -> None:
        self._reservations = reservations
        self._free_expired = free_expired
        self._agenda = agenda
        self._fallback = fallback

    async def __call__(self, organization_id: str, reservation_id: str) -> bool:
        """Whether nothing is held any more. It is tried for a moment; what takes longer goes on without the caller, who
        may ask again. Raises what `require_reservation_id` raises, NotFound and DependencyUnavailable.
        """
        require_reservation_id(reservation_id)
        await self._fallback.ending(organization_id, reservation_id)
        if await self._reservations.release(organization_id, reservation_id):
            return True
        self._agenda.remind(organization_id, in_seconds=0)
        await self._free_expired.in_time(organization_id)
        return await self._reservations.release(organization_id, reservation_id)
