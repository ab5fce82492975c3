"""From the bearer credential of a call to the principal behind it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import grpc
import structlog

from kit.errors import CredentialInvalid, CredentialMissing, DependencyUnavailable, Refused
from kit.grpc.call import NOBODY, CallerKind, Principal
from tollbook.accounts.v1 import accounts_pb2, accounts_pb2_grpc, identity_pb2, identity_pb2_grpc

log = structlog.get_logger()

AUTHORIZATION_KEY = "authorization"
# A revoked key must be refused everywhere within a second, so no answer is believed for longer than this.
BELIEVED_SECONDS = 0.8
# While accounts is down nobody can revoke a key either: what was true then is still served for a while.
BELIEVED_WHEN_UNAVAILABLE_SECONDS = 300.0
# How long a call waits for news of a key that it could go on believing, and for how long after that wait was in vain
# the next calls do not wait at all. Without them every call would take as long as accounts hangs.
PATIENCE_SECONDS = 0.5
SILENCE_SECONDS = 1.0
REMEMBERED_KEYS_MAX = 10_000
SERVICE_KEY_PREFIX = "tb_service_"


class KeyDirectory(Protocol):
    """Knows whom an API key stands for."""

    async def look_up(self, key_sha256: bytes) -> Principal | None:
        """The key's principal; None when it is unknown, revoked or expired. Raises DependencyUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    """Whom a key stood for when that was asked; an answer may be as old as its question."""

    asked_at: float
    principal: Principal | None


@dataclass(frozen=True, slots=True)
class _Question:
    asked_at: float
    task: asyncio.Task[Principal | None]


class Authenticator:
    """Finds the principal of a call; remembers keys for less than a second."""

    def __init__(self, directory: KeyDirectory, service_key_hashes: Mapping[str, str]) -> None:
        """service_key_hashes: service name -> hex SHA-256 of that service's key."""
        self._directory = directory
        self._services = {bytes.fromhex(digest): name for name, digest in service_key_hashes.items()}
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, _Question] = {}
        self._silent_until = float("-inf")

    async def authenticate(self, authorization: str | None) -> Principal:
        """The principal of an `authorization` header; NOBODY without one. Raises CredentialInvalid."""
        principal = self.recognise(authorization)
        if principal is not None:
            return principal
        return _unless_expired(await self._principal(_digest(authorization or "")))

    def recognise(self, authorization: str | None) -> Principal | None:
        """As `authenticate`, when the answer is at hand; None when the directory must be asked."""
        if not authorization:
            return NOBODY
        digest = _digest(authorization)
        known = self._known.get(digest)
        if known is not None:
            return _unless_expired(known.principal) if time.monotonic() - known.asked_at < BELIEVED_SECONDS else None
        if authorization.partition(" ")[2].startswith(SERVICE_KEY_PREFIX):
            name = self._services.get(digest)
            if name is None:
                raise CredentialInvalid
            return Principal(CallerKind.SERVICE, name)
        return None

    async def _principal(self, digest: bytes) -> Principal | None:
        now = time.monotonic()
        known = self._known.get(digest)
        age = now - known.asked_at if known else float("inf")
        if known and age < BELIEVED_SECONDS:
            return known.principal
        question = self._question(digest, now)
        # A cancelled caller does not cancel the question, on which others may wait.
        if known is None or known.principal is None or age >= BELIEVED_WHEN_UNAVAILABLE_SECONDS:
            return await asyncio.shield(question.task)
        if now < self._silent_until and not question.task.done():
            return known.principal
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await asyncio.shield(question.task)
        except (DependencyUnavailable, TimeoutError):
            self._silent_until = time.monotonic() + SILENCE_SECONDS
            return known.principal

    def _question(self, digest: bytes, now: float) -> _Question:
        """The question that is under way about a key, if its answer can be young enough, or a new one."""
        question = self._asking.get(digest)
        if question is None or (now - question.asked_at >= BELIEVED_SECONDS and now >= self._silent_until):
            question = _Question(now, asyncio.create_task(self._directory.look_up(digest)))
            self._asking[digest] = question
            question.task.add_done_callback(lambda _: self._learn(digest, question))
        return question

    def _learn(self, digest: bytes, question: _Question) -> None:
        if self._asking.get(digest) is question:
            del self._asking[digest]
        if question.task.cancelled():
            return
        if (error := question.task.exception()) is not None:
            if not isinstance(error, Refused):
                log.error("key_lookup_failed", exc_info=error)
            return
        self._silent_until = float("-inf")
        known = self._known.get(digest)
        if known is None or known.asked_at < question.asked_at:
            self._known[digest] = _Known(question.asked_at, question.task.result())
            self._known.move_to_end(digest)
        if len(self._known) > REMEMBERED_KEYS_MAX:
            self._known.popitem(last=False)


def _digest(authorization: str) -> bytes:
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise CredentialMissing
    return hashlib.sha256(credential.strip().encode()).digest()


def _unless_expired(principal: Principal | None) -> Principal:
    if principal is None or (principal.expires_at is not None and principal.expires_at <= time.time()):
        raise CredentialInvalid
    return principal


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
