"""What analytics reads from its environment."""

from __future__ import annotations

from kit.grpc.server import ServerSettings


class AnalyticsSettings(ServerSettings):
    """Besides what every server needs: the store and the peers."""

    postgres_tenant_url: str
    """Role that reads one organization's costs, and the prices."""
    postgres_writer_url: str
    """Role that writes costs, one organization per transaction, and prices."""
    postgres_fleet_url: str
    """Role that reads how far every organization is priced."""
    metering_address: str
    """Whose ledger is followed."""
    accounts_address: str
    """Who knows keys, organizations and their time zones."""
