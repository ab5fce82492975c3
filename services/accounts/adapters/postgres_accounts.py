"""Organizations and keys in Postgres; see migrations/0001_accounts.py for who may see what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from kit.errors import LimitExceeded
from kit.postgres.change_log import ChangeLog
from kit.postgres.database import Database
from services.accounts.domain.keys import ApiKey
from services.accounts.domain.organizations import Organization

_LOG = ChangeLog("accounts")


class PostgresOrganizations:
    """Organizations: one as the tenant role, the list as the fleet role."""

    def __init__(self, tenant: Database, fleet: Database) -> None:
        self._tenant = tenant
        self._fleet = fleet

    async def add(self, organization: Organization) -> Organization:
        """As the port."""
        organization_id = organization.organization_id
        async with self._tenant.transaction(organization_id=organization_id) as connection:
            if (await connection.execute(_ADD_ORGANIZATION, asdict(organization))).rowcount:
                body = {"display_name": organization.display_name, "time_zone": organization.time_zone}
                await _LOG.append(connection, organization_id, kind="organization_created", body=body)
                return organization
            row = (await connection.execute(_GET_ORGANIZATION, {"organization_id": organization_id})).one()
            return _organization_from_row(row)

    async def get(self, organization_id: str) -> Organization | None:
        """As the port."""
        async with self._tenant.transaction(organization_id=organization_id) as connection:
            row = (await connection.execute(_GET_ORGANIZATION, {"organization_id": organization_id})).one_or_none()
            return _organization_from_row(row) if row else None

    async def list_after(self, organization_id: str, *, count: int) -> Sequence[Organization]:
        """As the port."""
        async with self._fleet.transaction() as connection:
            rows = await connection.execute(_LIST_ORGANIZATIONS, {"after": organization_id, "count": count})
            return [_organization_from_row(row) for row in rows]


class PostgresApiKeys:
    """Keys: found by digest as the fleet role, everything else as the tenant role."""

    def __init__(self, tenant: Database, fleet: Database) -> None:
        self._tenant = tenant
        self._fleet = fleet

    async def add(self, key: ApiKey, secret_sha256: bytes, *, keys_max: int) -> ApiKey:
        """As the port."""
        names = {"organization_id": key.organization_id, "api_key_id": key.api_key_id}
        async with self._tenant.transaction(organization_id=key.organization_id) as connection:
            body = {
                "api_key_id": key.api_key_id,
                "display_name": key.display_name,
                "scopes": list(key.scopes),
            }
            added = await connection.execute(_ADD_KEY, asdict(key) | {"scopes": list(key.scopes)})
            if not added.rowcount:
                return _key_from_row((await connection.execute(_GET_KEY, names)).one())
            # The entry locks the organization's log head first, so two creations count each other's key.
            await _LOG.append(connection, key.organization_id, kind="api_key_created", body=body)
            valid = (await connection.execute(_COUNT_VALID, names | {"now": key.create_time})).scalar_one()
            if valid > keys_max:
                raise LimitExceeded(what="API keys", actual=valid, maximum=keys_max)
            await connection.execute(_ADD_DIGEST, names | {"key_sha256": secret_sha256})
            return key

    async def list_keys(self, organization_id: str) -> Sequence[ApiKey]:
        """As the port."""
        async with self._tenant.transaction(organization_id=organization_id) as connection:
            rows = await connection.execute(_LIST_KEYS, {"organization_id": organization_id})
            return [_key_from_row(row) for row in rows]

    async def revoke(self, organization_id: str, api_key_id: str, *, now: datetime) -> ApiKey | None:
        """As the port."""
        names = {"organization_id": organization_id, "api_key_id": api_key_id}
        async with self._tenant.transaction(organization_id=organization_id) as connection:
            if (await connection.execute(_REVOKE_KEY, names | {"now": now})).rowcount:
                await _LOG.append(connection, organization_id, kind="api_key_revoked", body={"api_key_id": api_key_id})
            row = (await connection.execute(_GET_KEY, names)).one_or_none()
            return _key_from_row(row) if row else None

    async def find(self, secret_sha256: bytes) -> ApiKey | None:
        """As the port. The fleet role learns only whose key it is; the key itself is read as its tenant."""
        async with self._fleet.transaction() as connection:
            place = (await connection.execute(_FIND_DIGEST, {"key_sha256": secret_sha256})).one_or_none()
        if place is None:
            return None
        async with self._tenant.transaction(organization_id=place.organization_id) as connection:
            return _key_from_row((await connection.execute(_GET_KEY, dict(place._mapping))).one())  # noqa: SLF001


def _organization_from_row(row: Row[Any]) -> Organization:
    return Organization(
        organization_id=row.organization_id,
        display_name=row.display_name,
        time_zone=row.time_zone,
        create_time=row.create_time,
    )


def _key_from_row(row: Row[Any]) -> ApiKey:
    return ApiKey(
        organization_id=row.organization_id,
        api_key_id=row.api_key_id,
        display_name=row.display_name,
        scopes=tuple(row.scopes),
        secret_prefix=row.secret_prefix,
        create_time=row.create_time,
        expire_time=row.expire_time,
        revoke_time=row.revoke_time,
    )


_ADD_ORGANIZATION = text("""
    INSERT INTO accounts.organizations (organization_id, display_name, time_zone, create_time)
    VALUES (:organization_id, :display_name, :time_zone, :create_time) ON CONFLICT (organization_id) DO NOTHING
""")
_GET_ORGANIZATION = text("""
    SELECT organization_id, display_name, time_zone, create_time FROM accounts.organizations
    WHERE organization_id = :organization_id
""")
_LIST_ORGANIZATIONS = text("""
    SELECT organization_id, display_name, time_zone, create_time FROM accounts.organizations
    WHERE organization_id > :after ORDER BY organization_id LIMIT :count
""")
_ADD_KEY = text("""
    INSERT INTO accounts.api_keys (organization_id, api_key_id, display_name, scopes, secret_prefix, create_time,
                                   expire_time, revoke_time)
    VALUES (:organization_id, :api_key_id, :display_name, CAST(:scopes AS integer[]), :secret_prefix, :create_time,
            :expire_time, :revoke_time)
    ON CONFLICT (organization_id, api_key_id) DO NOTHING
""")
_ADD_DIGEST = text("""
    INSERT INTO accounts.key_digests (key_sha256, organization_id, api_key_id)
    VALUES (:key_sha256, :organization_id, :api_key_id)
""")
_FIND_DIGEST = text("SELECT organization_id, api_key_id FROM accounts.key_digests WHERE key_sha256 = :key_sha256")
_KEY_COLUMNS = """
    SELECT organization_id, api_key_id, display_name, scopes, secret_prefix, create_time, expire_time, revoke_time
    FROM accounts.api_keys WHERE organization_id = :organization_id
"""
_GET_KEY = text(f"{_KEY_COLUMNS} AND api_key_id = :api_key_id")
_LIST_KEYS = text(f"{_KEY_COLUMNS} ORDER BY create_time DESC, api_key_id DESC")
_COUNT_VALID = text("""
    SELECT count(*) FROM accounts.api_keys
    WHERE organization_id = :organization_id AND revoke_time IS NULL AND (expire_time IS NULL OR expire_time > :now)
""")
_REVOKE_KEY = text("""
    UPDATE accounts.api_keys SET revoke_time = :now
    WHERE organization_id = :organization_id AND api_key_id = :api_key_id AND revoke_time IS NULL
""")
