"""A circuit breaker: who does not answer is not asked for a while, so that nobody waits in vain."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

FAILURES_MAX = 3
"""In a row; then it opens."""
OPEN_SECONDS = 0.5
"""How long nobody is asked, and then one alone, to see."""


class Breaker:
    """Counts failures in a row. It opens after the third, for half a second; then one probe goes through, whose end
    closes it or opens it anew. Whoever was admitted says how it ended, by exactly one of the other three methods.
    """

    def __init__(self, *, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._failures_count = 0
        self._open_until = 0.0
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether nobody would be admitted now. Looking changes nothing."""
        return self._failures_count >= FAILURES_MAX and (self._is_probing or self._now() < self._open_until)

    def admits(self) -> bool:
        """Whether to ask now. True while it is closed, and for one caller alone when it was open for long enough."""
        if self._failures_count < FAILURES_MAX:
            return True
        if self.is_open:
            return False
        self._is_probing = True
        return True

    def answered(self) -> None:
        """There was an answer, whatever it said."""
        self._failures_count, self._is_probing = 0, False

    def failed(self) -> None:
        """There was none. Those that were asked before it opened, and fail later, do not keep it open for longer."""
        was_open = self._failures_count >= FAILURES_MAX
        if not was_open or self._is_probing:
            self._open_until = self._now() + OPEN_SECONDS
        self._failures_count = min(self._failures_count + 1, FAILURES_MAX)
        self._is_probing = False

    def abandoned(self) -> None:
        """The caller gave up before anything was known."""
        self._is_probing = False
