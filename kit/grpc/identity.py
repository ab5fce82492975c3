"""From the bearer credential of a call to the principal behind it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol

import grpc

from kit.errors import CredentialInvalid, CredentialMissing, DependencyUnavailable
from kit.grpc.call import NOBODY, CallerKind, Principal
from tollbook.accounts.v1 import accounts_pb2, accounts_pb2_grpc, identity_pb2, identity_pb2_grpc

AUTHORIZATION_KEY = "authorization"
# A revoked key must be refused everywhere within a second, so no answer is believed for longer than this.
BELIEVED_SECONDS = 0.8
# While accounts is down nobody can revoke a key either: what was true then is still served for a while.
BELIEVED_WHEN_UNAVAILABLE_SECONDS = 300.0
REMEMBERED_KEYS_MAX = 10_000
SERVICE_KEY_PREFIX = "tb_service_"


class KeyDirectory(Protocol):
    """Knows whom an API key stands for."""

    async def look_up(self, key_sha256: bytes) -> Principal | None:
        """The key's principal; None when it is unknown, revoked or expired. Raises DependencyUnavailable."""
        ...


class Authenticator:
    """Finds the principal of a call; remembers keys for less than a second."""

    def __init__(self, directory: KeyDirectory, service_key_hashes: Mapping[str, str]) -> None:
        """service_key_hashes: service name -> hex SHA-256 of that service's key."""
        self._directory = directory
        self._services = {bytes.fromhex(digest): name for name, digest in service_key_hashes.items()}
        self._known: OrderedDict[bytes, tuple[float, Principal | None]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Future[Principal | None]] = {}

    async def authenticate(self, authorization: str | None) -> Principal:
        """The principal of an `authorization` header; NOBODY without one. Raises CredentialInvalid."""
        if not authorization:
            return NOBODY
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer" or not credential:
            raise CredentialMissing
        digest = hashlib.sha256(credential.strip().encode()).digest()
        if credential.startswith(SERVICE_KEY_PREFIX):
            name = self._services.get(digest)
            if name is None:
                raise CredentialInvalid
            return Principal(CallerKind.SERVICE, name)
        principal = await self._principal(digest)
        if principal is None or (principal.expires_at is not None and principal.expires_at <= time.time()):
            raise CredentialInvalid
        return principal

    async def _principal(self, digest: bytes) -> Principal | None:
        now = time.monotonic()
        known = self._known.get(digest)
        if known and now - known[0] < BELIEVED_SECONDS:
            return known[1]
        try:
            principal = await self._ask_once(digest)
        except DependencyUnavailable:
            if known and now - known[0] < BELIEVED_WHEN_UNAVAILABLE_SECONDS:
                return known[1]
            raise
        # Believed from before the question was asked: an answer may be as old as its question.
        self._known[digest] = (now, principal)
        self._known.move_to_end(digest)
        if len(self._known) > REMEMBERED_KEYS_MAX:
            self._known.popitem(last=False)
        return principal

    async def _ask_once(self, digest: bytes) -> Principal | None:
        # Many calls of one key at once ask accounts once; a cancelled caller does not cancel the question.
        question = self._asking.get(digest)
        if question is None:
            question = asyncio.ensure_future(self._directory.look_up(digest))
            self._asking[digest] = question
            question.add_done_callback(lambda _: self._asking.pop(digest, None))
        return await asyncio.shield(question)


class RemoteKeyDirectory:
    """Asks the accounts service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = identity_pb2_grpc.IdentityFeedServiceStub(channel)

    async def look_up(self, key_sha256: bytes) -> Principal | None:
        """As KeyDirectory."""
        try:
            answer = await self._stub.VerifyApiKey(identity_pb2.VerifyApiKeyRequest(key_sha256=key_sha256))
        except grpc.aio.AioRpcError as error:
            raise DependencyUnavailable(dependency="accounts") from error
        return principal_from_pb(answer.principal) if answer.HasField("principal") else None


def principal_from_pb(message: identity_pb2.Principal) -> Principal:
    """The caller that accounts speaks of."""
    admin = message.kind == identity_pb2.PRINCIPAL_KIND_ADMIN
    return Principal(
        CallerKind.ADMIN if admin else CallerKind.TENANT,
        message.api_key_id,
        message.organization_id,
        frozenset(message.scopes),
        message.expire_time.ToNanoseconds() / 1e9 if message.HasField("expire_time") else None,
    )


class RemoteOrganizations:
    """Knows which organizations exist, and in which zone their days are; asks accounts."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = accounts_pb2_grpc.AccountsServiceStub(channel)
        self._existing: set[str] = set()

    async def exists(self, organization_id: str) -> bool:
        """Whether there is such an organization. One that was seen is remembered: they are never deleted.
        Raises DependencyUnavailable.
        """
        if organization_id in self._existing:
            return True
        if await self.get(organization_id) is None:
            return False
        self._existing.add(organization_id)
        return True

    async def get(self, organization_id: str) -> accounts_pb2.Organization | None:
        """The organization; None when there is none. Raises DependencyUnavailable."""
        try:
            answer = await self._stub.GetOrganization(
                accounts_pb2.GetOrganizationRequest(organization_id=organization_id)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                return None
            raise DependencyUnavailable(dependency="accounts") from error
        return answer.organization
