"""Which organizations there are."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Organizations(Protocol):
    """Knows which organizations exist."""

    async def create_time(self, organization_id: str) -> datetime:
        """When the organization was made. Raises OrganizationNotFound and DependencyUnavailable."""
        ...
