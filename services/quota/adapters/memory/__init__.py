"""Quota's store and its peers in memory, for tests of what stands on them; they keep the promises of the ports."""

from services.quota.adapters.memory.counters import MemoryCounters
from services.quota.adapters.memory.peers import MemoryEntitlements, MemoryLedger, MemoryMeters

__all__ = ["MemoryCounters", "MemoryEntitlements", "MemoryLedger", "MemoryMeters"]
