"""Why one event of a batch was refused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason of errors.v1.ErrorReason (without its prefix), and the same in words."""

    reason: str
    message: str
