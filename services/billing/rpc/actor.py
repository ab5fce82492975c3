"""Who is named in the audit entries of the current call."""

from __future__ import annotations

from kit.grpc.call import current_principal


def current_actor() -> str:
    """The kind and name of the caller, such as `admin:admin`; never a secret."""
    principal = current_principal()
    return f"{principal.kind.value}:{principal.name}"
