"""Organizations and keys in memory, for tests of what stands on them; they keep the promises of the ports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from kit.errors import LimitExceeded
from services.accounts.domain.keys import ApiKey
from services.accounts.domain.organizations import Organization


class MemoryOrganizations:
    """Organizations over a dictionary."""

    def __init__(self) -> None:
        self._organizations: dict[str, Organization] = {}

    async def add(self, organization: Organization) -> Organization:
        """As the port."""
        return self._organizations.setdefault(organization.organization_id, organization)

    async def get(self, organization_id: str) -> Organization | None:
        """As the port."""
        return self._organizations.get(organization_id)

    async def list_after(self, organization_id: str, *, count: int) -> Sequence[Organization]:
        """As the port."""
        later = sorted(key for key in self._organizations if key > organization_id)
        return [self._organizations[key] for key in later[:count]]


class MemoryApiKeys:
    """Keys over dictionaries."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], ApiKey] = {}
        self._by_secret: dict[bytes, tuple[str, str]] = {}

    async def add(self, key: ApiKey, secret_sha256: bytes, *, keys_max: int) -> ApiKey:
        """As the port."""
        place = (key.organization_id, key.api_key_id)
        if place in self._keys:
            return self._keys[place]
        valid = [each for each in await self.list_keys(key.organization_id) if each.is_valid(key.create_time)]
        if len(valid) >= keys_max:
            raise LimitExceeded(what="API keys", actual=len(valid) + 1, maximum=keys_max)
        self._keys[place] = key
        self._by_secret[secret_sha256] = place
        return key

    async def list_keys(self, organization_id: str) -> Sequence[ApiKey]:
        """As the port."""
        own = [key for key in self._keys.values() if key.organization_id == organization_id]
        return sorted(own, key=lambda key: (key.create_time, key.api_key_id), reverse=True)

    async def revoke(self, organization_id: str, api_key_id: str, *, now: datetime) -> ApiKey | None:
        """As the port."""
        place = (organization_id, api_key_id)
        key = self._keys.get(place)
        if key is not None and key.revoke_time is None:
            key = self._keys[place] = replace(key, revoke_time=now)
        return key

    async def find(self, secret_sha256: bytes) -> ApiKey | None:
        """As the port."""
        place = self._by_secret.get(secret_sha256)
        return self._keys[place] if place else None
