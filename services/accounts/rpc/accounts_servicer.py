"""AccountsService."""

from __future__ import annotations

import base64
from typing import ClassVar

import grpc

from kit.errors import InvalidField
from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, current_principal, organization_of
from kit.grpc.context import ServicerContext
from kit.grpc.convert import moment_from_pb
from kit.ids import is_organization_id
from services.accounts.application.api_keys import KeyRequest, ManageApiKeys
from services.accounts.application.organizations import CreateOrganization, ReadOrganizations
from services.accounts.rpc.convert import key_to_pb, organization_to_pb
from tollbook.accounts.v1 import accounts_pb2, accounts_pb2_grpc


class AccountsServicer(accounts_pb2_grpc.AccountsServiceServicer):
    """Organizations and their keys."""

    service_name: ClassVar[str] = "tollbook.accounts.v1.AccountsService"

    def __init__(
        self,
        *,
        create_organization: CreateOrganization,
        organizations: ReadOrganizations,
        keys: ManageApiKeys,
    ) -> None:
        self._create_organization = create_organization
        self._organizations = organizations
        self._keys = keys

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        accounts_pb2_grpc.add_AccountsServiceServicer_to_server(self, server)

    async def CreateOrganization(
        self, request: accounts_pb2.CreateOrganizationRequest, context: ServicerContext
    ) -> accounts_pb2.CreateOrganizationResponse:
        """See the proto."""
        organization = await self._create_organization(
            request_id=request.request_id,
            organization_id=request.organization.organization_id,
            display_name=request.organization.display_name,
            time_zone=request.organization.time_zone,
        )
        return accounts_pb2.CreateOrganizationResponse(organization=organization_to_pb(organization))

    async def GetOrganization(
        self, request: accounts_pb2.GetOrganizationRequest, context: ServicerContext
    ) -> accounts_pb2.GetOrganizationResponse:
        """See the proto."""
        organization = await self._organizations.get(await organization_of(request.organization_id))
        return accounts_pb2.GetOrganizationResponse(organization=organization_to_pb(organization))

    async def ListOrganizations(
        self, request: accounts_pb2.ListOrganizationsRequest, context: ServicerContext
    ) -> accounts_pb2.ListOrganizationsResponse:
        """See the proto."""
        page, after = await self._organizations.page(_after_from_token(request.page_token), size=request.page_size)
        return accounts_pb2.ListOrganizationsResponse(
            organizations=[organization_to_pb(organization) for organization in page],
            next_page_token=base64.urlsafe_b64encode(after.encode()).decode(),
        )

    async def CreateApiKey(
        self, request: accounts_pb2.CreateApiKeyRequest, context: ServicerContext
    ) -> accounts_pb2.CreateApiKeyResponse:
        """See the proto."""
        wanted, caller = request.api_key, current_principal()
        organization_id = await self._own_organization(wanted.organization_id)
        expires = wanted.HasField("expire_time")
        key, secret = await self._keys.create(
            KeyRequest(
                request_id=request.request_id,
                organization_id=organization_id,
                display_name=wanted.display_name,
                scopes=frozenset(wanted.scopes),
                expire_time=moment_from_pb(wanted.expire_time, "api_key.expire_time") if expires else None,
            ),
            # Nobody hands on more than they hold.
            grantable=caller.scopes & TENANT_SCOPES if caller.kind is CallerKind.TENANT else TENANT_SCOPES,
        )
        return accounts_pb2.CreateApiKeyResponse(api_key=key_to_pb(key), secret=secret)

    async def ListApiKeys(
        self, request: accounts_pb2.ListApiKeysRequest, context: ServicerContext
    ) -> accounts_pb2.ListApiKeysResponse:
        """See the proto."""
        keys = await self._keys.list_keys(await self._own_organization(request.organization_id))
        return accounts_pb2.ListApiKeysResponse(api_keys=[key_to_pb(key) for key in keys])

    async def RevokeApiKey(
        self, request: accounts_pb2.RevokeApiKeyRequest, context: ServicerContext
    ) -> accounts_pb2.RevokeApiKeyResponse:
        """See the proto."""
        organization_id = await self._own_organization(request.organization_id)
        key = await self._keys.revoke(organization_id, request.api_key_id, request_id=request.request_id)
        return accounts_pb2.RevokeApiKeyResponse(api_key=key_to_pb(key))

    async def _own_organization(self, requested: str) -> str:
        organization_id = await organization_of(requested)
        await self._organizations.get(organization_id)
        return organization_id


def _after_from_token(token: str) -> str:
    try:
        after = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:  # of either decoding
        after = "?"
    if after and not is_organization_id(after):
        raise InvalidField(field="page_token", problem="not one that this method gave out")
    return after
