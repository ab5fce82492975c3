"""When the next reservation of each organization ends, as far as this process knows."""

from __future__ import annotations

import heapq
from time import monotonic

from services.quota.application.ports import Instant

_MICROSECONDS = 1_000_000


class ExpiryAgenda:
    """A process' own reminders. Losing them leaks nothing: every look at an organization renews its reminder, and what
    nobody looks at denies nobody.
    """

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._queue: list[tuple[float, str]] = []

    def note(self, organization_id: str, instant: Instant) -> None:
        """Reminds of what the store said about the next expiry."""
        if instant.next_expiry_us is not None:
            in_seconds = max(0, instant.next_expiry_us - instant.now_us) / _MICROSECONDS
            self.remind(organization_id, in_seconds=in_seconds)

    def remind(self, organization_id: str, *, in_seconds: float) -> None:
        """Reminds of the organization, unless there is an earlier reminder."""
        at = monotonic() + in_seconds
        if at < self._at.get(organization_id, float("inf")):
            self._at[organization_id] = at
            heapq.heappush(self._queue, (at, organization_id))

    def take_due(self, *, at_most: int) -> list[str]:
        """The organizations whose time has come; their reminders are gone."""
        due: list[str] = []
        while self._queue and self._queue[0][0] <= monotonic() and len(due) < at_most:
            at, organization_id = heapq.heappop(self._queue)
            if self._at.get(organization_id) == at:
                del self._at[organization_id]
                due.append(organization_id)
        return due
