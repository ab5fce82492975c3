"""Organizations, asked of the accounts service."""

from __future__ import annotations

from datetime import datetime

from kit.clock import from_unix_microseconds
from kit.errors import OrganizationNotFound
from kit.grpc.identity import RemoteOrganizations


class AccountsOrganizations:
    """Organizations over accounts."""

    def __init__(self, accounts: RemoteOrganizations) -> None:
        self._accounts = accounts

    async def create_time(self, organization_id: str) -> datetime:
        """As Organizations."""
        organization = await self._accounts.get(organization_id)
        if organization is None:
            raise OrganizationNotFound(organization_id=organization_id)
        return from_unix_microseconds(organization.create_time.ToMicroseconds())
