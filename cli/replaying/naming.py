"""What a run of the replay is called, and the organizations that it makes."""

from __future__ import annotations

from kit.ids import new_uuid


def new_run_id() -> str:
    """A new id of a run; runs sort by their beginning."""
    # Of a UUIDv7, its 48 bits of time and 32 of its random ones.
    digits = new_uuid().hex
    return digits[:12] + digits[-8:]


def organization_id_of(run_id: str, name: str) -> str:
    """The organization that stands for A, B or C in a run."""
    return f"replay-{run_id}-{name.lower()}"
