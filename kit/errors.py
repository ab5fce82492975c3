"""Refusals: what a caller is told when a request cannot be done.

A refusal's class names a truth, its docstring is the message (with its fields filled in), its `reason` is one of the
documented ErrorReason names without their prefix, and its `kind` decides the status code at the edge.
"""

from __future__ import annotations

import inspect
from datetime import timedelta
from enum import Enum
from typing import ClassVar

# A status travels in HTTP/2 trailers, of which gRPC takes 8 KiB: percent-encoded once and in base64 once.
MESSAGE_BYTES_MAX = 1_500


class Kind(Enum):
    """The family of a refusal; each is one gRPC status code of the same name."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    ABORTED = "ABORTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"


class Refused(Exception):
    """The request was refused."""

    kind: ClassVar[Kind] = Kind.INVALID_ARGUMENT
    reason: ClassVar[str] = "INVALID_FIELD"
    retry_delay: timedelta | None = None
    """When to try again; None: nothing is said about it."""

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        template = inspect.cleandoc(type(self).__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        super().__init__(_shortened(template.format(**fields)))


def _shortened(message: str) -> str:
    # A message quotes what was sent, which may be megabytes.
    encoded = message.encode(errors="replace")
    if len(encoded) <= MESSAGE_BYTES_MAX:
        return message
    return encoded[:MESSAGE_BYTES_MAX].decode(errors="ignore") + "…"


class InvalidField(Refused):
    """{field}: {problem}"""  # noqa: D400, D415 - the docstring is the message


class LimitExceeded(Refused):
    """{what}: {actual} is above the maximum of {maximum}."""

    reason = "LIMIT_EXCEEDED"


class NotFound(Refused):
    """There is no {what} {name!r}."""

    kind = Kind.NOT_FOUND
    reason = "NOT_FOUND"


class AlreadyExists(Refused):
    """The {what} {name!r} exists already."""

    kind = Kind.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"


class RequestIdReused(Refused):
    """The request_id {request_id!r} was used before with another request."""

    kind = Kind.ABORTED
    reason = "REQUEST_ID_REUSED"


class InvalidState(Refused):
    """{problem}"""  # noqa: D400, D415

    kind = Kind.FAILED_PRECONDITION
    reason = "INVALID_STATE"


class LogRewound(Refused):
    """The position {sequence} is not one of this log's: it was rewound. Rebuild from a snapshot."""

    kind = Kind.FAILED_PRECONDITION
    reason = "LOG_REWOUND"


class OutOfRetention(Refused):
    """{problem}"""  # noqa: D400, D415

    kind = Kind.OUT_OF_RANGE
    reason = "OUT_OF_RETENTION"


class DependencyUnavailable(Refused):
    """{dependency} cannot be reached now; nothing was changed that a retry with the same ids would repeat."""

    kind = Kind.UNAVAILABLE
    reason = "DEPENDENCY_UNAVAILABLE"


class Overloaded(Refused):
    """{what}: more comes in than can be done now, and nothing of this was begun; send it again in {seconds} s."""

    kind = Kind.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"

    def __init__(self, *, what: str, seconds: float) -> None:
        super().__init__(what=what, seconds=seconds)
        self.retry_delay = timedelta(seconds=seconds)


class Draining(Refused):
    """The process is stopping; connect again and send what was not answered, with the same ids."""

    kind = Kind.UNAVAILABLE
    reason = "DEPENDENCY_UNAVAILABLE"


class CredentialMissing(Refused):
    """No credential: send the metadata `authorization: Bearer <key>`."""

    kind = Kind.UNAUTHENTICATED
    reason = "CREDENTIAL_MISSING"


class CredentialInvalid(Refused):
    """The key is unknown, revoked or expired."""

    kind = Kind.UNAUTHENTICATED
    reason = "CREDENTIAL_INVALID"


class ScopeMissing(Refused):
    """The key may not call {method}: it needs {scope}."""

    kind = Kind.PERMISSION_DENIED
    reason = "SCOPE_MISSING"


class OrganizationMismatch(Refused):
    """The request names an organization that is not the key's."""

    kind = Kind.PERMISSION_DENIED
    reason = "ORGANIZATION_MISMATCH"


class OrganizationRequired(Refused):
    """organization_id: this key belongs to no organization, so the request must name one."""

    reason = "ORGANIZATION_REQUIRED"


class OrganizationNotFound(Refused):
    """There is no organization {organization_id!r}."""

    kind = Kind.NOT_FOUND
    reason = "ORGANIZATION_NOT_FOUND"
