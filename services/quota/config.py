"""What quota reads from its environment."""

from __future__ import annotations

from pydantic import Field

from kit.grpc.server import ServerSettings
from services.quota.domain.maxima import CHECKS_TOGETHER_MAX, CHECKS_WINDOW_US, CHECKS_WINDOW_US_MAX


class QuotaSettings(ServerSettings):
    """Besides what every server needs: the stores and the peers."""

    postgres_tenant_url: str
    """Role that reads and changes the limits that one organization has set."""
    postgres_fleet_url: str
    """Role that sees which organizations changed theirs."""
    redis_url: str
    """Where counters and reservations live."""
    metering_address: str
    """Who keeps the ledger that counters follow, and the catalog of meters."""
    billing_address: str
    """Who says what each organization is entitled to."""
    accounts_address: str
    """Who knows keys and organizations."""
    redis_check_milliseconds: int = Field(default=20, ge=1, le=1_000)
    """How long a check waits for one Redis command, or for a connection to send it on. Above it: UNAVAILABLE."""
    checks_together_max: int = Field(default=CHECKS_TOGETHER_MAX, ge=1, le=CHECKS_TOGETHER_MAX)
    """Concurrent checks that share a call of Redis; 1: each has its own."""
    checks_window_microseconds: int = Field(default=CHECKS_WINDOW_US, ge=0, le=CHECKS_WINDOW_US_MAX)
    """How long a check may wait for others to share a call with, when another call began just before."""
    redis_upkeep_milliseconds: int = Field(default=1_000, ge=1, le=60_000)
    """The same for what runs beside the calls: following, rebuilding, expiry."""
