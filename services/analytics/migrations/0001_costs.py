"""Prices, and what the provider calls of the usage ledger cost."""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import allow_all, protect

revision = "analytics_0001"
down_revision = None

TENANT, WRITER, FLEET = "tollbook_analytics_tenant", "tollbook_analytics_writer", "tollbook_analytics_fleet"


def upgrade() -> None:
    """Makes the schema of analytics."""
    # The price table is global: one operator, one list of what providers charge. Its rows are only ever added.
    op.execute("""
        -- One row; its lock puts requests in order.
        CREATE TABLE analytics.price_head (
            singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
            version bigint NOT NULL CHECK (version >= 0));
        INSERT INTO analytics.price_head (version) VALUES (0);

        -- 18 digits before the point and 12 behind it are all that a decimal on the wire can have.
        CREATE TABLE analytics.prices (
            version bigint PRIMARY KEY,
            provider text NOT NULL CHECK (provider <> ''),
            model text NOT NULL,
            effective_time timestamptz,
            input_per_thousand numeric(30, 12) NOT NULL CHECK (input_per_thousand >= 0),
            output_per_thousand numeric(30, 12) NOT NULL CHECK (output_per_thousand >= 0),
            cache_read_per_thousand numeric(30, 12) CHECK (cache_read_per_thousand >= 0),
            cache_write_per_thousand numeric(30, 12) CHECK (cache_write_per_thousand >= 0),
            create_time timestamptz NOT NULL DEFAULT now(),
            UNIQUE NULLS NOT DISTINCT (provider, model, effective_time));

        CREATE TABLE analytics.baselines (
            version bigint PRIMARY KEY,
            provider text NOT NULL CHECK (provider <> ''),
            create_time timestamptz NOT NULL DEFAULT now());

        CREATE TABLE analytics.price_requests (
            request_id text PRIMARY KEY,
            content text NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now());
    """)
    op.execute("""
        -- How far an organization's ledger is priced; price_version: the table that all of it is rated with.
        CREATE TABLE analytics.cost_positions (
            organization_id text PRIMARY KEY,
            sequence bigint NOT NULL CHECK (sequence >= 0),
            commit_id text NOT NULL,
            price_version bigint NOT NULL CHECK (price_version >= 0));
        CREATE INDEX cost_positions_by_price_version ON analytics.cost_positions (price_version);

        -- Whole femto-US-dollars (1e-15): tokens (16 digits) times rates (30 digits), added up over five classes.
        CREATE TABLE analytics.call_costs (
            organization_id text NOT NULL,
            sequence bigint NOT NULL CHECK (sequence > 0),
            event_time timestamptz NOT NULL,
            provider text NOT NULL,
            model text NOT NULL,
            project_id text NOT NULL, team_id text NOT NULL, user_id text NOT NULL,
            agent_id text NOT NULL, task_id text NOT NULL,
            tokens_input_uncached bigint NOT NULL,
            tokens_cache_read bigint NOT NULL,
            tokens_cache_write bigint NOT NULL,
            tokens_output bigint NOT NULL,
            tokens_reasoning bigint NOT NULL,
            cost_femto_usd numeric(48, 0) NOT NULL CHECK (cost_femto_usd >= 0),
            baseline_femto_usd numeric(48, 0) NOT NULL CHECK (baseline_femto_usd >= 0),
            is_fallback boolean NOT NULL,
            baseline_is_fallback boolean NOT NULL,
            price_version bigint NOT NULL,
            PRIMARY KEY (organization_id, sequence));
        CREATE INDEX call_costs_by_time ON analytics.call_costs (organization_id, event_time)
            INCLUDE (provider, cost_femto_usd, baseline_femto_usd);
    """)
    for table in ("cost_positions", "call_costs"):
        # The writer too acts for one organization per transaction: a mix-up cannot reach another one's rows.
        op.execute(protect(f"analytics.{table}", tenant_role=f"{TENANT}, {WRITER}"))
    op.execute(allow_all("analytics.cost_positions", role=FLEET, command="SELECT"))
    op.execute(f"""
        GRANT SELECT ON analytics.cost_positions, analytics.call_costs TO {TENANT};
        GRANT SELECT ON analytics.price_head, analytics.prices, analytics.baselines TO {TENANT};
        GRANT SELECT, INSERT, UPDATE ON analytics.cost_positions TO {WRITER};
        GRANT SELECT, INSERT, UPDATE, DELETE ON analytics.call_costs TO {WRITER};
        GRANT SELECT, UPDATE ON analytics.price_head TO {WRITER};
        GRANT SELECT, INSERT ON analytics.prices, analytics.baselines, analytics.price_requests TO {WRITER};
        GRANT SELECT ON analytics.cost_positions TO {FLEET};
    """)
