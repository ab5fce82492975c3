"""Sources that nobody may name but the one who writes them."""

from __future__ import annotations

OTLP = "otlp"
"""Model calls that arrived as OpenTelemetry spans and log records."""
TASK_TIME = "task-time"
"""Time of tasks, from their reports."""

# Of a service of the suite, which may send them, and of our own doors, which nobody can send: an event sent beforehand
# under the id that a door is going to use would be counted in place of the door's.
_OF_SERVICES = frozenset({"analytics", "quota"})
_OF_DOORS = frozenset({OTLP, TASK_TIME})


def is_reserved(source: str, *, service: str | None) -> bool:
    """Whether an event that is sent under this source must be refused; `service` names the calling service, if it is
    one.
    """
    return source in _OF_DOORS or (source in _OF_SERVICES and source != service)


def is_anothers(source: str, *, service: str | None) -> bool:
    """Whether events of this source may be reversed by nobody but the service that writes them. What came through our
    own doors may be: its organization knows best what it sent there.
    """
    return source in _OF_SERVICES and source != service
