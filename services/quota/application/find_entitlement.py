"""Find the entitlement of an organization: in memory, beside the counters, or at billing."""

from __future__ import annotations

from collections import OrderedDict

from services.quota.application.ports import EntitlementShelf, EntitlementSource
from services.quota.application.single_flight import SingleFlight
from services.quota.domain.entitlements import Entitlement
from services.quota.domain.maxima import REMEMBERED_ENTITLEMENTS_MAX


class FindEntitlement:
    """Remembers entitlements. What it remembers may be outdated: every use is verified by the store that decides."""

    def __init__(self, shelf: EntitlementShelf, source: EntitlementSource) -> None:
        self._shelf = shelf
        self._source = source
        self._remembered: OrderedDict[str, Entitlement] = OrderedDict()
        self._asking = SingleFlight[Entitlement]()

    async def __call__(self, organization_id: str) -> Entitlement:
        """The entitlement that was last seen. Raises DependencyUnavailable."""
        remembered = self._remembered.get(organization_id)
        return remembered or await self.kept(organization_id)

    async def kept(self, organization_id: str) -> Entitlement:
        """The one kept beside the counters; put there when there is none. Raises DependencyUnavailable."""
        kept = await self._shelf.entitlement(organization_id)
        return await self._ask_billing(organization_id) if kept is None else self.remember(kept)

    async def renew(self, refused: Entitlement) -> tuple[Entitlement, bool]:
        """What to try after the store refused one, and whether billing itself says that its period is current.

        Raises DependencyUnavailable.
        """
        kept = await self._shelf.entitlement(refused.organization_id)
        if kept is not None and kept != refused:
            return self.remember(kept), False
        current = await self._ask_billing(refused.organization_id)
        return current, current == refused

    def remember(self, entitlement: Entitlement) -> Entitlement:
        """Remembers it and answers it."""
        self._remembered[entitlement.organization_id] = entitlement
        self._remembered.move_to_end(entitlement.organization_id)
        if len(self._remembered) > REMEMBERED_ENTITLEMENTS_MAX:
            self._remembered.popitem(last=False)
        return entitlement

    async def _ask_billing(self, organization_id: str) -> Entitlement:
        async def ask() -> Entitlement:
            return await self._shelf.put(await self._source.in_force(organization_id))

        return self.remember(await self._asking(organization_id, ask))
