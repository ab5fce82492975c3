"""The entitlements in a change log in memory."""

from __future__ import annotations

from kit.errors import LogRewound
from kit.feed import START, Position
from services.billing.adapters.memory.world import World
from services.billing.application.ports.entitlements import EntitlementPage


class MemoryEntitlements:
    """EntitlementReader over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._pages = world.pages[organization_id]

    async def head(self) -> Position:
        """As EntitlementReader."""
        return self._pages.changes[-1].position if self._pages.changes else START

    async def after(self, position: Position) -> EntitlementPage:
        """As EntitlementReader."""
        changes = self._pages.changes
        if position.sequence and position not in [change.position for change in changes]:
            raise LogRewound(sequence=position.sequence)
        later = changes[position.sequence :]
        entries = tuple(change.entitlement for change in later if change.entitlement is not None)
        return EntitlementPage(entries, later[-1].position if later else position)
