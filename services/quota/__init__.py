"""Quota: limits, live counters and reservations; the record of nothing."""
