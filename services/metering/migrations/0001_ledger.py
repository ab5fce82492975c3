"""The ledger: heads, identities, partitioned events, meters."""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import CURRENT_ORGANIZATION, allow_all, protect

revision = "metering_0001"
down_revision = None

TENANT, WRITER, FLEET = "tollbook_metering_tenant", "tollbook_metering_writer", "tollbook_metering_fleet"


def upgrade() -> None:
    """Makes the schema of the ledger."""
    op.execute("""
        CREATE TABLE metering.meters (
            name text PRIMARY KEY,
            base_unit text NOT NULL,
            display_unit text NOT NULL,
            base_units_per_display_unit bigint NOT NULL CHECK (base_units_per_display_unit > 0));
        INSERT INTO metering.meters VALUES
            ('agent_minutes', 'millisecond', 'minute', 60000),
            ('websocket_minutes', 'millisecond', 'minute', 60000),
            ('api_calls', 'call', 'call', 1),
            ('concurrent_agents', 'agent', 'agent', 1),
            ('tokens_input', 'token', 'token', 1),
            ('tokens_output', 'token', 'token', 1),
            ('tokens_cache_read', 'token', 'token', 1),
            ('tokens_cache_write', 'token', 'token', 1),
            ('tokens_reasoning', 'token', 'token', 1),
            ('provider_cost', 'nano_usd', 'usd', 1000000000);

        -- One row per organization; its lock orders the organization's appends.
        CREATE TABLE metering.ledger_heads (
            organization_id text PRIMARY KEY,
            sequence bigint NOT NULL CHECK (sequence >= 0),
            commit_id text NOT NULL,
            update_time timestamptz NOT NULL DEFAULT now());

        -- What was ever recorded; outlives the raw event.
        CREATE TABLE metering.event_identities (
            organization_id text NOT NULL,
            identity bytea NOT NULL,
            content bytea NOT NULL,
            content_version smallint NOT NULL,
            sequence bigint NOT NULL,
            PRIMARY KEY (organization_id, identity));

        CREATE TABLE metering.events (
            organization_id text NOT NULL,
            sequence bigint NOT NULL,
            commit_id text NOT NULL,
            receive_time timestamptz NOT NULL,
            source text NOT NULL,
            id text NOT NULL,
            event_time timestamptz NOT NULL,
            event_time_nanos smallint NOT NULL CHECK (event_time_nanos BETWEEN 0 AND 999),
            project_id text NOT NULL, team_id text NOT NULL, user_id text NOT NULL,
            agent_id text NOT NULL, task_id text NOT NULL, session_id text NOT NULL,
            measurements jsonb NOT NULL,
            provider_call jsonb,
            reservation_id text NOT NULL,
            reservation_final boolean NOT NULL,
            PRIMARY KEY (organization_id, sequence, receive_time)
        ) PARTITION BY RANGE (receive_time);
        CREATE INDEX events_by_time ON metering.events (organization_id, event_time);
    """)
    for table in ("ledger_heads", "event_identities", "events"):
        op.execute(protect(f"metering.{table}", tenant_role=TENANT))
    for table, command in (
        ("ledger_heads", "ALL"),
        ("event_identities", "SELECT"),
        ("event_identities", "INSERT"),
        ("events", "INSERT"),
    ):
        op.execute(allow_all(f"metering.{table}", role=WRITER, command=command))
    op.execute(allow_all("metering.ledger_heads", role=FLEET, command="SELECT"))
    op.execute(f"""
        GRANT SELECT ON metering.meters, metering.ledger_heads, metering.events TO {TENANT};
        GRANT SELECT, INSERT, UPDATE ON metering.ledger_heads TO {WRITER};
        GRANT SELECT, INSERT ON metering.event_identities TO {WRITER};
        GRANT INSERT ON metering.events TO {WRITER};
        GRANT SELECT ON metering.ledger_heads TO {FLEET};
    """)
    # Services own nothing, so the owner's function makes partitions for them. Weeks: few enough that planning stays
    # cheap after years, short enough that retention drops usage soon after its day.
    op.execute(f"""
        CREATE FUNCTION metering.make_event_partitions(days_ahead integer) RETURNS void
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        DECLARE
            week date := date_trunc('week', (now() AT TIME ZONE 'UTC'))::date;
            partition text;
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtext('metering.make_event_partitions'));
            WHILE week <= (now() AT TIME ZONE 'UTC')::date + days_ahead LOOP
                partition := 'events_' || to_char(week, 'YYYYMMDD');
                IF to_regclass('metering.' || partition) IS NULL THEN
                    EXECUTE format(
                        'CREATE TABLE metering.%I PARTITION OF metering.events FOR VALUES FROM (%L) TO (%L)',
                        partition, week::text || ' 00:00:00+00', (week + 7)::text || ' 00:00:00+00');
                    EXECUTE format('ALTER TABLE metering.%I ENABLE ROW LEVEL SECURITY', partition);
                    EXECUTE format('ALTER TABLE metering.%I FORCE ROW LEVEL SECURITY', partition);
                    EXECUTE format(
                        'CREATE POLICY tenant ON metering.%I TO {TENANT} USING (organization_id = %s)',
                        partition, $policy${CURRENT_ORGANIZATION}$policy$);
                END IF;
                week := week + 7;
            END LOOP;
        END $$;
        REVOKE ALL ON FUNCTION metering.make_event_partitions(integer) FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION metering.make_event_partitions(integer) TO {FLEET};
        SELECT metering.make_event_partitions(28);
    """)
