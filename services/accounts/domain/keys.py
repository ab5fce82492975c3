"""API keys: 256 random bits that are shown once and kept only as their SHA-256."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from kit.errors import InvalidField
from services.accounts.domain import limits
from services.accounts.domain.organizations import check_request_id, digest_of

_KEY_ID = re.compile(r"key_[0-9a-f]{20}")
_PREFIX = "tb_live_"
_SHOWN_CHARACTERS = len(_PREFIX) + 6
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key without its secret."""

    organization_id: str
    api_key_id: str
    display_name: str
    scopes: tuple[int, ...]
    secret_prefix: str
    create_time: datetime
    expire_time: datetime | None = None
    revoke_time: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether it opens anything now."""
        return self.revoke_time is None and (self.expire_time is None or now < self.expire_time)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made, with its secret and the digest that is kept of it."""

    key: ApiKey
    secret: str

    @property
    def secret_sha256(self) -> bytes:
        """What is stored instead of the secret."""
        return hashlib.sha256(self.secret.encode()).digest()


def is_key_id(text: str) -> bool:
    """Whether it has the shape of the ids that `new_key` makes."""
    return _KEY_ID.fullmatch(text) is not None


def new_key(
    *,
    request_id: str,
    organization_id: str,
    display_name: str,
    scopes: Collection[int],
    grantable: Collection[int],
    expire_time: datetime | None,
    now: datetime,
) -> NewKey:
    """A sound key with a fresh secret. Its id follows from the request, so that a retry finds it.

    scopes: none means every grantable one. grantable: what the caller may hand on. Raises InvalidField.
    """
    check_request_id(request_id)
    if not display_name.isprintable() or len(display_name.encode()) > limits.NAME_BYTES_MAX:
        problem = f"at most {limits.NAME_BYTES_MAX} bytes of printable text"
        raise InvalidField(field="api_key.display_name", problem=problem)
    if not set(scopes) <= set(grantable):
        raise InvalidField(field="api_key.scopes", problem="a scope that the caller does not hold or no key can have")
    if expire_time is not None and expire_time <= now:
        raise InvalidField(field="api_key.expire_time", problem="in the past")
    secret = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    key = ApiKey(
        organization_id=organization_id,
        api_key_id=f"key_{digest_of(organization_id, request_id)[:20]}",
        display_name=display_name,
        scopes=tuple(sorted(set(scopes) or set(grantable))),
        secret_prefix=secret[:_SHOWN_CHARACTERS],
        create_time=now,
        expire_time=expire_time,
    )
    return NewKey(key, secret)
