"""IdentityFeedService: who callers are, for the other services."""

from __future__ import annotations

import hmac
from typing import ClassVar

import grpc

from kit.errors import InvalidField
from kit.grpc.call import Principal
from kit.grpc.context import ServicerContext
from kit.grpc.identity import principal_from_pb
from services.accounts.application.api_keys import ManageApiKeys
from services.accounts.rpc.convert import tenant_to_pb
from tollbook.accounts.v1 import identity_pb2, identity_pb2_grpc

_SHA256_BYTES = 32


class IdentityServicer(identity_pb2_grpc.IdentityFeedServiceServicer):
    """Looks keys up, also for the accounts service itself (as a kit.grpc.identity.KeyDirectory)."""

    service_name: ClassVar[str] = "tollbook.accounts.v1.IdentityFeedService"

    def __init__(self, *, keys: ManageApiKeys, admin_key_sha256: bytes) -> None:
        self._keys = keys
        self._admin_key_sha256 = admin_key_sha256

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        identity_pb2_grpc.add_IdentityFeedServiceServicer_to_server(self, server)

    async def VerifyApiKey(
        self, request: identity_pb2.VerifyApiKeyRequest, context: ServicerContext
    ) -> identity_pb2.VerifyApiKeyResponse:
        """See the proto."""
        if len(request.key_sha256) != _SHA256_BYTES:
            raise InvalidField(field="key_sha256", problem=f"{_SHA256_BYTES} bytes")
        return identity_pb2.VerifyApiKeyResponse(principal=await self._principal(request.key_sha256))

    async def look_up(self, key_sha256: bytes) -> Principal | None:
        """As KeyDirectory."""
        message = await self._principal(key_sha256)
        return None if message is None else principal_from_pb(message)

    async def _principal(self, key_sha256: bytes) -> identity_pb2.Principal | None:
        if hmac.compare_digest(key_sha256, self._admin_key_sha256):
            return identity_pb2.Principal(kind=identity_pb2.PRINCIPAL_KIND_ADMIN, api_key_id="admin")
        key = await self._keys.verify(key_sha256)
        return None if key is None else tenant_to_pb(key)
