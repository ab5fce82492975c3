"""The time zones of organizations, asked from accounts and believed for a few seconds."""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kit.errors import DependencyUnavailable, InvalidState, OrganizationNotFound
from kit.grpc.identity import RemoteOrganizations
from services.analytics.domain import limits

BELIEVED_SECONDS = 5.0
# While accounts is down nobody can change a zone either.
BELIEVED_WHEN_UNAVAILABLE_SECONDS = 300.0


class RemoteTimeZones:
    """TimeZones over AccountsService."""

    def __init__(self, organizations: RemoteOrganizations) -> None:
        self._organizations = organizations
        self._known: OrderedDict[str, tuple[float, ZoneInfo]] = OrderedDict()

    async def zone_of(self, organization_id: str) -> ZoneInfo:
        """As TimeZones."""
        now = monotonic()
        known = self._known.get(organization_id)
        if known and now - known[0] < BELIEVED_SECONDS:
            return known[1]
        try:
            organization = await self._organizations.get(organization_id)
        except DependencyUnavailable:
            if known and now - known[0] < BELIEVED_WHEN_UNAVAILABLE_SECONDS:
                return known[1]
            raise
        if organization is None:
            raise OrganizationNotFound(organization_id=organization_id)
        try:
            zone = ZoneInfo(organization.time_zone or "UTC")
        except (ZoneInfoNotFoundError, ValueError):
            problem = f"the time zone {organization.time_zone!r} is not in this machine's zone database"
            raise InvalidState(problem=problem) from None
        self._known[organization_id] = (now, zone)
        self._known.move_to_end(organization_id)
        if len(self._known) > limits.ZONES_REMEMBERED_MAX:
            self._known.popitem(last=False)
        return zone
