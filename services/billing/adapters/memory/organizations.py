"""Organizations that a test names."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from kit.errors import OrganizationNotFound


class MemoryOrganizations:
    """Organizations that a test names."""

    def __init__(self, create_times: Mapping[str, datetime]) -> None:
        self._create_times = create_times

    async def create_time(self, organization_id: str) -> datetime:
        """As Organizations."""
        if organization_id not in self._create_times:
            raise OrganizationNotFound(organization_id=organization_id)
        return self._create_times[organization_id]
