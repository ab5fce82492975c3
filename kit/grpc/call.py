"""The call that is being served: who calls, under which request id, and for which organization."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from kit.errors import InvalidField, OrganizationMismatch, OrganizationNotFound, OrganizationRequired
from kit.ids import ORGANIZATION_ID_RULE, is_organization_id

REQUEST_ID_KEY = "x-request-id"


class CallerKind(Enum):
    """What kind of caller."""

    NOBODY = "nobody"
    """No credential; only public methods."""
    TENANT = "tenant"
    """An organization's key."""
    ADMIN = "admin"
    """The admin key: the operator of the platform."""
    SERVICE = "service"
    """Another service of the suite."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls."""

    kind: CallerKind
    name: str
    """The key's id, or the service's name."""
    organization_id: str = ""
    """A tenant's organization; empty for everyone else."""
    scopes: frozenset[int] = field(default_factory=frozenset)
    """What a tenant may do: values of access.v1.Scope."""
    expires_at: float | None = None
    """When a tenant's key ends by itself, in Unix seconds; None: never."""


NOBODY = Principal(CallerKind.NOBODY, "nobody")


async def _nothing_to_ask() -> None:
    return


class Call(NamedTuple):
    """One call in progress."""

    method: str
    request_id: str
    principal: Principal
    admit_again: Callable[[], Awaitable[None]] = _nothing_to_ask
    """Raises what the call would be refused with if it came now."""


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)


def current_principal() -> Principal:
    """Who makes the current call; NOBODY outside of one."""
    call = current_call.get()
    return call.principal if call else NOBODY


def current_actor() -> str:
    """Who is named in the audit entries of the current call: the kind and name of the caller, such as `admin:admin`;
    never a secret.
    """
    principal = current_principal()
    return f"{principal.kind.value}:{principal.name}"


def call_in_progress() -> Call:
    """The current call. Raises RuntimeError outside of one."""
    call = current_call.get()
    if call is None:
        msg = "no call is in progress"
        raise RuntimeError(msg)
    return call


async def admit_again() -> None:
    """For streams, at each request: a key that was revoked or has expired since the call began ends it, as it would be
    refused a new one. Raises CredentialInvalid, ScopeMissing or DependencyUnavailable.
    """
    call = current_call.get()
    if call is not None:
        await call.admit_again()


OrganizationExists = Callable[[str], Awaitable[bool]]


async def organization_of(requested: str, *, exists: OrganizationExists | None = None) -> str:
    """The organization that the current call acts on.

    A tenant's is its key's: `requested` is empty or equal, else OrganizationMismatch. The admin and services must name
    it, else OrganizationRequired, and in the shape of an id, else InvalidField; the admin's is looked up with `exists`,
    if given, else OrganizationNotFound.
    """
    principal = current_principal()
    if principal.kind is CallerKind.TENANT:
        if requested not in ("", principal.organization_id):
            raise OrganizationMismatch
        return principal.organization_id
    if not requested:
        raise OrganizationRequired
    if not is_organization_id(requested):
        raise InvalidField(field="organization_id", problem=ORGANIZATION_ID_RULE)
    if principal.kind is CallerKind.ADMIN and exists is not None and not await exists(requested):
        raise OrganizationNotFound(organization_id=requested)
    return requested
