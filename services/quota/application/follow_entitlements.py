"""Follow the entitlements of billing: the effect of a change on what is kept."""

from __future__ import annotations

from kit.feed import Page, Position
from services.quota.application.find_entitlement import FindEntitlement
from services.quota.application.ports import EntitlementShelf, InForce
from services.quota.domain.entitlements import Entitlement


class EntitlementEffect:
    """kit.feed.Effect on the entitlements kept beside the counters. An organization without one is of no interest: it
    is asked for when it is first needed.
    """

    def __init__(self, shelf: EntitlementShelf, entitlements: FindEntitlement) -> None:
        self._shelf = shelf
        self._entitlements = entitlements

    async def position(self, key: str) -> Position | None:
        """As Effect."""
        return await self._shelf.read_up_to(key)

    async def apply(self, key: str, after: Position, page: Page[Entitlement]) -> bool:  # noqa: ARG002 - versions decide
        """As Effect: in force for every process when it returns."""
        for entitlement in page.entries:
            self._entitlements.remember(await self._shelf.put(InForce(entitlement, page.position)))
        return True

    async def rebuild(self, key: str) -> None:
        """As Effect: nothing to begin."""
