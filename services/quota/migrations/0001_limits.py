"""The limits that organizations set, and the change log of quota.

Everything else that quota knows is in Redis and comes back from metering and billing. Two roles: the tenant's changes
and reads one organization's limits; the fleet's sees how far each change log reaches.
"""

from __future__ import annotations

from alembic import op

from kit.postgres.change_log import change_log_tables
from kit.postgres.row_security import protect

revision = "quota_0001"
down_revision = None

TENANT, FLEET = "tollbook_quota_tenant", "tollbook_quota_fleet"


def upgrade() -> None:
    """Makes the schema of quota."""
    op.execute("""
        CREATE TABLE quota.limits (
            organization_id text NOT NULL,
            limit_id text NOT NULL,
            scope_kind text NOT NULL
                CHECK (scope_kind IN ('organization', 'project', 'team', 'user', 'agent', 'task')),
            scope_id text CHECK (scope_id IS NULL OR scope_kind <> 'organization'),
            meter text NOT NULL,
            kind text NOT NULL CHECK (kind IN ('PERIOD', 'WINDOW', 'CONCURRENCY')),
            value bigint CHECK (value BETWEEN 0 AND 9007199254740991),
            grace_percent integer NOT NULL CHECK (grace_percent BETWEEN 0 AND 1000),
            window_us bigint,
            window_style text CHECK (window_style IN ('FIXED', 'SLIDING')),
            on_unavailable text NOT NULL CHECK (on_unavailable IN ('ALLOW', 'DENY')),
            shadow boolean NOT NULL,
            PRIMARY KEY (organization_id, limit_id),
            CHECK ((kind = 'WINDOW') = (window_us IS NOT NULL)),
            CHECK ((kind = 'WINDOW') = (window_style IS NOT NULL)));

        -- The callers' ids of changes that were done, and the limit as it was then: a retry is answered by it.
        CREATE TABLE quota.requests (
            organization_id text NOT NULL,
            request_id text NOT NULL,
            digest bytea NOT NULL,
            limit_values jsonb,
            create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, request_id));
    """)
    for table in ("limits", "requests"):
        op.execute(protect(f"quota.{table}", tenant_role=TENANT))
    op.execute(f"""
        GRANT SELECT, INSERT, UPDATE, DELETE ON quota.limits TO {TENANT};
        GRANT SELECT, INSERT ON quota.requests TO {TENANT};
    """)
    op.execute(change_log_tables("quota", tenant_role=TENANT, fleet_role=FLEET))
