"""Billing in memory, for tests of what stands on it; it keeps the promises of the ports."""
