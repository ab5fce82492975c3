"""Who may call which method: read from the `access` option of the protos, so that contract and check are one text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf import descriptor_pool

from kit.errors import CredentialMissing, ScopeMissing
from kit.grpc.call import CallerKind, Principal
from tollbook.access.v1 import access_pb2

# Not ours to annotate: health checks and reflection tell nothing about any tenant.
_PUBLIC_SERVICES = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "grpc.reflection.v1.ServerReflection",
)
_ADMIN_SCOPES = frozenset(access_pb2.Scope.values()) - {
    access_pb2.SCOPE_UNSPECIFIED,
    access_pb2.SCOPE_INTERNAL,
}

TENANT_SCOPES = _ADMIN_SCOPES - {access_pb2.SCOPE_PUBLIC, access_pb2.SCOPE_OPERATOR}


class AccessUndeclared(Exception):
    """A method declares no access; the server refuses to start."""


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Who may call one method."""

    method: str
    scope: int
    services: frozenset[str]
    is_own: bool = True
    """False for health and reflection, which answer before the service is ready."""

    @property
    def is_public(self) -> bool:
        """Whether no credential is needed."""
        return self.scope == access_pb2.SCOPE_PUBLIC

    def admit(self, principal: Principal) -> None:
        """Raises CredentialMissing or ScopeMissing unless the principal may call."""
        if self.is_public:
            return
        if principal.kind is CallerKind.NOBODY:
            raise CredentialMissing
        if not self._allows(principal):
            scope = access_pb2.Scope.Name(access_pb2.Scope.ValueType(self.scope))
            raise ScopeMissing(method=self.method, scope=scope)

    def _allows(self, principal: Principal) -> bool:
        if principal.kind is CallerKind.SERVICE:
            return principal.name in self.services
        if principal.kind is CallerKind.ADMIN:
            return self.scope in _ADMIN_SCOPES
        return self.scope in principal.scopes and self.scope in TENANT_SCOPES


def access_rules(services: Iterable[str], *, foreign: Mapping[str, int] | None = None) -> dict[str, AccessRule]:
    """The rules of every method of the named services, by `/package.Service/Method`.

    foreign: the scope (of access.v1) that a key needs for any method of a service whose proto is another project's and
    so declares none, by the service's name. Raises AccessUndeclared when a method has no rule, or one without a scope.
    """
    pool = descriptor_pool.Default()
    rules: dict[str, AccessRule] = {}
    for name in services:
        for method in pool.FindServiceByName(name).methods:
            path = f"/{name}/{method.name}"
            if name in _PUBLIC_SERVICES:
                rules[path] = AccessRule(path, access_pb2.SCOPE_PUBLIC, frozenset(), is_own=False)
                continue
            declared = method.GetOptions().Extensions[access_pb2.access]
            # What a proto declares stands: the application can close what is open, and never open what is closed.
            scope = declared.scope or (foreign or {}).get(name, access_pb2.SCOPE_UNSPECIFIED)
            if scope == access_pb2.SCOPE_UNSPECIFIED:
                msg = f"{path} declares no access scope in its proto"
                raise AccessUndeclared(msg)
            rules[path] = AccessRule(path, scope, frozenset(declared.services))
    return rules
