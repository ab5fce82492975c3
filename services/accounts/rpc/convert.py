"""Organizations and keys on the wire and in the domain."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from kit.grpc.convert import moment_to_pb
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
        create_time=moment_to_pb(organization.create_time),
    )


def key_to_pb(key: ApiKey) -> accounts_pb2.ApiKey:
    """The key; it has no secret to show."""
    return accounts_pb2.ApiKey(
        api_key_id=key.api_key_id,
        organization_id=key.organization_id,
        display_name=key.display_name,
        scopes=[access_pb2.Scope.ValueType(scope) for scope in key.scopes],
        secret_prefix=key.secret_prefix,
        create_time=moment_to_pb(key.create_time),
        expire_time=_optional_to_pb(key.expire_time),
        revoke_time=_optional_to_pb(key.revoke_time),
    )


def tenant_to_pb(key: ApiKey) -> identity_pb2.Principal:
    """The tenant that a key stands for."""
    return identity_pb2.Principal(
        kind=identity_pb2.PRINCIPAL_KIND_TENANT,
        organization_id=key.organization_id,
        api_key_id=key.api_key_id,
        scopes=[access_pb2.Scope.ValueType(scope) for scope in key.scopes],
        expire_time=_optional_to_pb(key.expire_time),
    )


def _optional_to_pb(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else moment_to_pb(moment)
