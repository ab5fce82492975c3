"""The port of terms over dictionaries."""

from __future__ import annotations

from kit.feed import Position
from services.quota.adapters.memory.organizations import OverOrganizations
from services.quota.application.ports import (
    InForce,
    Kept,
)
from services.quota.domain.entitlements import Entitlement
from services.quota.domain.terms import OwnLimits


class MemoryShelf(OverOrganizations):
    """TermsShelf."""

    async def entitlement(self, organization_id: str) -> Entitlement | None:
        """As EntitlementShelf."""
        return self._organizations[organization_id].entitlement

    async def kept(self, organization_id: str) -> Kept:
        """As TermsShelf."""
        organization = self._organizations[organization_id]
        return Kept(organization.entitlement, organization.own)

    async def limits_position(self, organization_id: str) -> Position | None:
        """As LimitShelf."""
        own = self._organizations[organization_id].own
        return None if own is None else Position(own.sequence, own.commit_id)

    async def put_limits(self, own: OwnLimits) -> OwnLimits:
        """As LimitShelf."""
        organization = self._organizations[own.organization_id]
        if organization.own is None or own.sequence > organization.own.sequence:
            organization.own = own
        return organization.own

    async def replace_limits(self, own: OwnLimits, *, expected: Position) -> bool:
        """As LimitShelf."""
        if await self.limits_position(own.organization_id) != expected:
            return False
        self._organizations[own.organization_id].own = own
        return True

    async def read_up_to(self, organization_id: str) -> Position | None:
        """As EntitlementShelf."""
        organization = self._organizations[organization_id]
        return None if organization.entitlement is None else organization.read_up_to

    async def put(self, found: InForce) -> Entitlement:
        """As EntitlementShelf."""
        organization = self._organizations[found.entitlement.organization_id]
        if organization.entitlement is None or found.entitlement.supersedes(organization.entitlement):
            organization.entitlement = found.entitlement
        is_known = found.entitlement.version >= organization.entitlement.version
        if is_known and found.position.sequence > organization.read_up_to.sequence:
            organization.read_up_to = found.position
        return organization.entitlement

    async def replace(self, found: InForce, *, expected: Position) -> bool:
        """As EntitlementShelf."""
        organization = self._organizations[found.entitlement.organization_id]
        if organization.entitlement is None or organization.read_up_to != expected:
            return False
        organization.entitlement, organization.read_up_to = found.entitlement, found.position
        return True
