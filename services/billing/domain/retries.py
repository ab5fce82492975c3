"""How long to wait before work that failed is tried again."""

from __future__ import annotations

from datetime import timedelta

from services.billing.domain import limits

_DOUBLINGS_MAX = 12
"""A second doubled so often is more than the longest pause."""


def retry_pause(attempt_count: int) -> timedelta:
    """A second after the first attempt, twice as long after each further one, up to an hour; it never gives up."""
    doublings = min(max(attempt_count - 1, 0), _DOUBLINGS_MAX)
    return min(limits.RETRY_FIRST * (1 << doublings), limits.RETRY_MAX)
