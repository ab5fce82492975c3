"""How many checks the store is asked in one call: a script keeps everybody else waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from services.quota.domain.checks import Check
from services.quota.domain.maxima import CHECKS_TOGETHER_MAX, COUNTERS_TOGETHER_MAX, LIMITS_TOGETHER_MAX, OWN_LIMITS_MAX
from services.quota.domain.terms import Terms


class Load:
    """Of one call. What it costs the store goes by the counters that it looks at, and by the limits that it decides,
    more than by its checks.
    """

    def __init__(self, terms: Terms | None, *, checks_max: int = CHECKS_TOGETHER_MAX) -> None:
        """terms: what the checks are decided by, as far as known. None: by as many limits as there may be."""
        self._takes_any = False
        self._checks_left = checks_max
        self._counters_left = COUNTERS_TOGETHER_MAX
        self._limits_left = LIMITS_TOGETHER_MAX
        self.turn_to(terms)

    def turn_to(self, terms: Terms | None) -> None:
        """The checks that follow are decided by these terms."""
        self._terms = terms
        limits_count = len(terms.limits) if terms is not None else OWN_LIMITS_MAX
        # So few that they are taken for all to apply, and not counted for each check.
        self._few = limits_count if limits_count * self._checks_left <= self._limits_left else None

    def takes(self, check: Check) -> bool:
        """Whether the check goes along: the first does, whatever it costs."""
        counters_count, limits_count = check.counters_count, self._limits_count(check)
        is_too_much = counters_count > self._counters_left or limits_count > self._limits_left
        if self._takes_any and (is_too_much or self._checks_left <= 0):
            return False
        self._takes_any = True
        self._checks_left -= 1
        self._counters_left -= counters_count
        self._limits_left -= limits_count
        return True

    def _limits_count(self, check: Check) -> int:
        if self._few is not None:
            return self._few
        return OWN_LIMITS_MAX if self._terms is None else self._terms.limits_count(check)


def loads(checks: Iterable[Check], known: Callable[[], Terms | None]) -> Iterator[list[Check]]:
    """The checks in their order, as many in a list as go in one call. known: the terms of Load, asked for each call:
    the first may have found out.
    """
    load, taken = Load(known()), list[Check]()
    for check in checks:
        if not load.takes(check):
            yield taken
            load, taken = Load(known()), []
            load.takes(check)
        taken.append(check)
    if taken:
        yield taken
