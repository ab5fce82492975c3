"""Create, list, revoke and look up API keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from kit.clock import Clock
from kit.errors import NotFound, RequestIdReused
from services.accounts.application.ports import ApiKeys
from services.accounts.domain import limits
from services.accounts.domain.keys import ApiKey, is_key_id, new_key
from services.accounts.domain.organizations import check_request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """What a new key is to be."""

    request_id: str
    organization_id: str
    display_name: str
    scopes: Collection[int]
    expire_time: datetime | None


class ManageApiKeys:
    """The keys of organizations."""

    def __init__(self, keys: ApiKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def create(self, request: KeyRequest, *, grantable: Collection[int]) -> tuple[ApiKey, str]:
        """A key and its secret. Repeating the request answers the key with an empty secret: it was shown once.

        grantable: the scopes that the caller may hand on. Raises InvalidField, LimitExceeded and RequestIdReused.
        """
        now = self._clock.now()
        made = new_key(
            request_id=request.request_id,
            organization_id=request.organization_id,
            display_name=request.display_name,
            scopes=request.scopes,
            grantable=grantable,
            expire_time=request.expire_time,
            now=now,
        )
        kept = await self._keys.add(made.key, made.secret_sha256, keys_max=limits.KEYS_PER_ORGANIZATION_MAX)
        if kept == made.key:
            return kept, made.secret
        asked = replace(kept, secret_prefix=made.key.secret_prefix, create_time=now, revoke_time=None)
        if asked != made.key:
            raise RequestIdReused(request_id=request.request_id)
        return kept, ""

    async def list_keys(self, organization_id: str) -> Sequence[ApiKey]:
        """The organization's keys, newest first."""
        return await self._keys.list_keys(organization_id)

    async def revoke(self, organization_id: str, api_key_id: str, *, request_id: str) -> ApiKey:
        """Ends a key for good; a second time changes nothing, whatever its request_id. Raises InvalidField and
        NotFound.
        """
        check_request_id(request_id)
        # What no key can be called is not asked for: Postgres takes no NUL.
        found = is_key_id(api_key_id)
        key = await self._keys.revoke(organization_id, api_key_id, now=self._clock.now()) if found else None
        if key is None:
            raise NotFound(what="API key", name=api_key_id)
        return key

    async def verify(self, secret_sha256: bytes) -> ApiKey | None:
        """The valid key of a secret; None when it is unknown, revoked or expired."""
        key = await self._keys.find(secret_sha256)
        return key if key is not None and key.is_valid(self._clock.now()) else None
