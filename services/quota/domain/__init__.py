"""Limits, decisions and reservations: pure, synchronous, without I/O."""
