"""The changes that are scheduled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DueChange:
    """A subscription whose timeline has something new in force, claimed for one attempt."""

    organization_id: str
    attempt_count: int


class ChangeList(Protocol):
    """When each organization's subscription changes next; narrow, across organizations."""

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueChange]:
        """Claims up to `count` whose time has come, the longest due first, each for the lease: two claimers never get
        the same within it.
        """
        ...

    async def retry(self, due: DueChange, *, at: datetime, error: str) -> None:
        """Makes it due again at a time, unless it was claimed or scheduled anew meanwhile."""
        ...
