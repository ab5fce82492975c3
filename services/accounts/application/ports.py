"""What the use cases of accounts need of the world."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from services.accounts.domain.keys import ApiKey
from services.accounts.domain.organizations import Organization


class Organizations(Protocol):
    """Keeps organizations."""

    async def add(self, organization: Organization) -> Organization:
        """Adds it and logs the change, or answers the one that is there under its id. Atomic."""
        ...

    async def get(self, organization_id: str) -> Organization | None:
        """The organization; None when there is none."""
        ...

    async def list_after(self, organization_id: str, *, count: int) -> Sequence[Organization]:
        """The next organizations by id, after the one given (empty: from the first)."""
        ...


class ApiKeys(Protocol):
    """Keeps keys."""

    async def add(self, key: ApiKey, secret_sha256: bytes, *, keys_max: int) -> ApiKey:
        """Adds it and logs the change, or answers the one that is there under its id. Atomic. Raises LimitExceeded
        when the organization would have more than keys_max valid keys.
        """
        ...

    async def list_keys(self, organization_id: str) -> Sequence[ApiKey]:
        """The organization's keys, newest first."""
        ...

    async def revoke(self, organization_id: str, api_key_id: str, *, now: datetime) -> ApiKey | None:
        """Ends the key and logs the change; one that is revoked already stays as it is. None: no such key. Atomic."""
        ...

    async def find(self, secret_sha256: bytes) -> ApiKey | None:
        """The key of a secret, whether it is valid or not."""
        ...
