"""Every maximum of metering, in one place."""

from __future__ import annotations

from datetime import timedelta

BATCH_EVENTS_MAX = 5_000
"""One transaction: larger ones hold the organization's head too long."""
EVENT_MEASUREMENTS_MAX = 32
QUANTITY_MAX = 2**53 - 1
"""The largest integer that every party on the way (Lua and JavaScript too) holds exactly."""
EVENT_ID_BYTES_MAX = 256
SOURCE_BYTES_MAX = 128
NAME_BYTES_MAX = 128
LATENCY_MAX = timedelta(days=1)
ACCEPTED_BACK = timedelta(days=35)
"""Covers the longest billing period and a few days of outage at the sender."""
ACCEPTED_AHEAD = timedelta(minutes=5)
"""Covers clocks that disagree."""
PAGE_EVENTS = 500
PARTITION_DAYS_AHEAD = 28
