"""All of quota's stores over dictionaries, for tests of what stands on them."""

from __future__ import annotations

from kit.clock import Clock
from services.quota.adapters.memory.checks import MemoryChecks
from services.quota.adapters.memory.organizations import Organizations
from services.quota.adapters.memory.reservations import MemoryReservations
from services.quota.adapters.memory.shelf import MemoryShelf
from services.quota.adapters.memory.upkeep import MemoryUpkeep


class MemoryCounters(MemoryChecks, MemoryReservations, MemoryUpkeep, MemoryShelf):
    """They keep the promises of the ports, by a clock that is handed in."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Organizations(clock))

    def lose_everything(self) -> None:
        """As FLUSHALL."""
        self._organizations.clear()

    def lose_holds(self, organization_id: str) -> None:
        """As when the part that holds is evicted: reservations are void, and what windows count stays."""
        organization = self._organizations[organization_id]
        organization.holds_are_lost = organization.state is not None
        organization.held.clear()
        organization.tombstones.clear()
        for name, each in list(organization.reservations.items()):
            if each.scopes:
                del organization.reservations[name]
