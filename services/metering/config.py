"""What metering reads from its environment."""

from __future__ import annotations

from kit.grpc.server import ServerSettings


class MeteringSettings(ServerSettings):
    """Besides what every server needs: the stores and the peers."""

    postgres_tenant_url: str
    """Role that reads one organization's events."""
    postgres_writer_url: str
    """Role that appends for any organization and reads only what dedupe and heads need."""
    postgres_fleet_url: str
    """Role that reads every head and makes partitions."""
    accounts_address: str
    """Who knows keys and organizations."""
