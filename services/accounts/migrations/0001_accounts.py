"""Organizations, API keys, and the change log of accounts."""

from __future__ import annotations

from alembic import op

from kit.postgres.change_log import change_log_tables
from kit.postgres.row_security import allow_all, protect

revision = "accounts_0001"
down_revision = None

TENANT, FLEET = "tollbook_accounts_tenant", "tollbook_accounts_fleet"


def upgrade() -> None:
    """Makes the schema of accounts."""
    op.execute("""
        CREATE TABLE accounts.organizations (
            organization_id text PRIMARY KEY,
            display_name text NOT NULL,
            time_zone text NOT NULL,
            create_time timestamptz NOT NULL);

        CREATE TABLE accounts.api_keys (
            organization_id text NOT NULL,
            api_key_id text NOT NULL,
            display_name text NOT NULL,
            scopes integer[] NOT NULL,
            secret_prefix text NOT NULL,
            create_time timestamptz NOT NULL,
            expire_time timestamptz,
            revoke_time timestamptz,
            PRIMARY KEY (organization_id, api_key_id));

        -- Global by nature: a caller shows a secret before anybody knows its organization.
        CREATE TABLE accounts.key_digests (
            key_sha256 bytea PRIMARY KEY CHECK (length(key_sha256) = 32),
            organization_id text NOT NULL,
            api_key_id text NOT NULL);
    """)
    for table in ("organizations", "api_keys", "key_digests"):
        op.execute(protect(f"accounts.{table}", tenant_role=TENANT))
    for table in ("organizations", "key_digests"):
        op.execute(allow_all(f"accounts.{table}", role=FLEET, command="SELECT"))
    op.execute(f"""
        GRANT SELECT, INSERT ON accounts.organizations TO {TENANT};
        GRANT SELECT, INSERT ON accounts.api_keys TO {TENANT};
        GRANT UPDATE (revoke_time) ON accounts.api_keys TO {TENANT};
        GRANT INSERT ON accounts.key_digests TO {TENANT};
        GRANT SELECT ON accounts.organizations, accounts.key_digests TO {FLEET};
    """)
    op.execute(change_log_tables("accounts", tenant_role=TENANT, fleet_role=FLEET))
