"""Organizations and keys on the wire and in the domain."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from kit.clock import from_unix_microseconds, unix_microseconds
from kit.errors import InvalidField
from services.accounts.domain.keys import ApiKey
from services.accounts.domain.organizations import Organization
from tollbook.access.v1 import access_pb2
from tollbook.accounts.v1 import accounts_pb2, identity_pb2


def organization_to_pb(organization: Organization) -> accounts_pb2.Organization:
    """The organization."""
    return accounts_pb2.Organization(
        organization_id=organization.organization_id,
        display_name=organization.display_name,
        time_zone=organization.time_zone,
        create_time=_timestamp(organization.create_time),
    )


def key_to_pb(key: ApiKey) -> accounts_pb2.ApiKey:
    """The key; it has no secret to show."""
    return accounts_pb2.ApiKey(
        api_key_id=key.api_key_id,
        organization_id=key.organization_id,
        display_name=key.display_name,
        scopes=[access_pb2.Scope.ValueType(scope) for scope in key.scopes],
        secret_prefix=key.secret_prefix,
        create_time=_timestamp(key.create_time),
        expire_time=_timestamp(key.expire_time),
        revoke_time=_timestamp(key.revoke_time),
    )


def tenant_to_pb(key: ApiKey) -> identity_pb2.Principal:
    """The tenant that a key stands for."""
    return identity_pb2.Principal(
        kind=identity_pb2.PRINCIPAL_KIND_TENANT,
        organization_id=key.organization_id,
        api_key_id=key.api_key_id,
        scopes=[access_pb2.Scope.ValueType(scope) for scope in key.scopes],
        expire_time=_timestamp(key.expire_time),
    )


def moment_from_pb(timestamp: Timestamp, field: str) -> datetime:
    """A time. Raises InvalidField when it is out of range."""
    try:
        return from_unix_microseconds(timestamp.ToMicroseconds())
    except (OverflowError, ValueError):
        raise InvalidField(field=field, problem="not a time between the years 1 and 9999") from None


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromMicroseconds(unix_microseconds(moment))
    return timestamp
