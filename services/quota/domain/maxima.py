"""Every maximum of quota, in one place."""

from __future__ import annotations

CONSUMPTIONS_MAX = 16
QUANTITY_MAX = 2**53 - 1
"""The largest integer that every party on the way (Lua and JavaScript too) holds exactly."""
COUNTER_MAX = QUANTITY_MAX
"""Where a counter stays: only what is unlimited gets there, after 285 000 years of one agent's milliseconds."""
RESERVE_US_MIN = 1_000_000
RESERVE_US_MAX = 24 * 3_600_000_000
RESERVE_US_DEFAULT = 15 * 60_000_000
"""Long enough for most tasks, short enough that a crashed one gives back its hold soon."""
REMEMBERED_ENTITLEMENTS_MAX = 20_000
"""Per process; some 1 kB each."""
SWEPT_AT_ONCE_MAX = 100
"""Reservations that one script frees: a script keeps everybody else waiting."""
