"""What accounts reads from its environment."""

from __future__ import annotations

from pydantic import Field

from kit.grpc.server import ServerSettings


class AccountsSettings(ServerSettings):
    """Besides what every server needs: the store and the admin key."""

    postgres_tenant_url: str
    """Role that reads and changes one organization."""
    postgres_fleet_url: str
    """Role that finds keys by their digest and lists organizations."""
    admin_key_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hex SHA-256 of the operator's key; the key itself is never here."""
