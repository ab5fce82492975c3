"""How many checks the store is asked in one call: a script keeps everybody else waiting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from services.quota.domain.checks import Check
from services.quota.domain.maxima import CHECKS_TOGETHER_MAX, COUNTERS_TOGETHER_MAX


class Load:
    """Of one call. What it costs the store goes by the counters that it looks at, more than by its checks."""

    def __init__(self, *, checks_max: int = CHECKS_TOGETHER_MAX) -> None:
        self._checks_left = checks_max
        self._counters_left = COUNTERS_TOGETHER_MAX

    def takes(self, check: Check) -> bool:
        """Whether the check goes along: the first does, whatever it costs."""
        counters_count = check.counters_count
        if self._checks_left <= 0 or counters_count > self._counters_left:
            return False
        self._checks_left -= 1
        self._counters_left -= counters_count
        return True


def loads(checks: Iterable[Check]) -> Iterator[list[Check]]:
    """The checks in their order, as many in a list as go in one call."""
    load, taken = Load(), list[Check]()
    for check in checks:
        if not load.takes(check):
            yield taken
            load, taken = Load(), []
            load.takes(check)
        taken.append(check)
    if taken:
        yield taken
