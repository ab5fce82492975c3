"""Retention: what followers have confirmed, sealed totals, horizons, archived weeks, and how a partition goes.

A partition goes in two steps, each a function of the owner's that checks for itself. `detach_event_partition` takes it
out of the ledger and moves the horizons in one transaction, once it is sealed, archived and confirmed. Nobody reads or
writes the detached table, so `drop_event_partition` has the time to count what is in it before it goes for good.
"""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import CURRENT_ORGANIZATION, allow_all, protect

revision = "metering_0007"
down_revision = "metering_0006"

TENANT, WRITER, FLEET = "tollbook_metering_tenant", "tollbook_metering_writer", "tollbook_metering_fleet"

# What is not older than this is never dropped, whatever the settings say: events are accepted for 35 days back, and
# billing periods last up to 31.
DAYS_MIN = 40
# Whoever comes while a lock is waited for waits too. Short, because it is tried again.
LOCK_TIMEOUT = "250ms"


def upgrade() -> None:
    """Makes the tables and the functions."""
    _make_positions()
    _make_sealed_totals()
    _make_partitions()
    _make_retirement()


def _make_positions() -> None:
    op.execute(f"""
        -- How far each follower needs the raw events no longer.
        CREATE TABLE metering.confirmed_positions (
            organization_id text NOT NULL,
            follower text NOT NULL,
            sequence bigint NOT NULL CHECK (sequence >= 0),
            needed_from timestamptz, -- events of this time and later are needed still, whatever their sequence
            confirm_time timestamptz NOT NULL,
            PRIMARY KEY (organization_id, follower));

        -- Up to where raw events are gone. An organization without a row has all of them.
        CREATE TABLE metering.ledger_horizons (
            organization_id text PRIMARY KEY,
            sequence bigint NOT NULL CHECK (sequence > 0),
            commit_id text NOT NULL);

        {protect("metering.confirmed_positions", tenant_role=TENANT)}
        {protect("metering.ledger_horizons", tenant_role=TENANT)}
        ALTER POLICY tenant ON metering.ledger_horizons TO {TENANT}, {WRITER};
        {allow_all("metering.confirmed_positions", role=WRITER)}
        {allow_all("metering.confirmed_positions", role=FLEET, command="SELECT")}
        CREATE POLICY owner_select ON metering.confirmed_positions FOR SELECT TO CURRENT_USER USING (true);
        CREATE POLICY owner_all ON metering.ledger_horizons TO CURRENT_USER USING (true) WITH CHECK (true);
        GRANT SELECT, INSERT, UPDATE ON metering.confirmed_positions TO {WRITER};
        GRANT SELECT ON metering.confirmed_positions TO {FLEET};
        GRANT SELECT ON metering.ledger_horizons TO {TENANT}, {WRITER};
    """)


def _make_sealed_totals() -> None:
    # Shaped as rollups are (see 0003), but by span: added once, from raw events that are to go, and never changed.
    op.execute(f"""
        CREATE TABLE metering.sealed_spans (
            organization_id text NOT NULL,
            after_sequence bigint NOT NULL CHECK (after_sequence >= 0),
            sequence bigint NOT NULL CHECK (sequence > after_sequence),
            commit_id text NOT NULL,
            week date NOT NULL, -- the partition that holds the span
            first_event_time timestamptz NOT NULL,
            last_event_time timestamptz NOT NULL CHECK (last_event_time >= first_event_time),
            PRIMARY KEY (organization_id, sequence),
            UNIQUE (organization_id, after_sequence));
        CREATE INDEX sealed_spans_by_week ON metering.sealed_spans (week);
        {protect("metering.sealed_spans", tenant_role=TENANT)}
        CREATE POLICY owner_select ON metering.sealed_spans FOR SELECT TO CURRENT_USER USING (true);
    """)
    calls = """
        call_count bigint NOT NULL, latency_count bigint NOT NULL, latency_ms numeric NOT NULL,
        tokens_input_uncached numeric NOT NULL, tokens_cache_read numeric NOT NULL,
        tokens_cache_write numeric NOT NULL, tokens_output numeric NOT NULL, tokens_reasoning numeric NOT NULL
    """
    for prefix, parts in (("sealed", ()), ("subject_sealed", ("project_id", "team_id", "user_id", "agent_id"))):
        columns, keys = "".join(f"{part} text NOT NULL, " for part in parts), "".join(f", {part}" for part in parts)
        op.execute(f"""
            CREATE TABLE metering.{prefix}_measurements (
                organization_id text NOT NULL, sequence bigint NOT NULL, -- that of the span
                measurement text NOT NULL, bucket_start timestamptz NOT NULL, {columns}
                quantity numeric NOT NULL, event_count bigint NOT NULL,
                PRIMARY KEY (organization_id, measurement, bucket_start{keys}, sequence));
            CREATE TABLE metering.{prefix}_calls (
                organization_id text NOT NULL, sequence bigint NOT NULL,
                bucket_start timestamptz NOT NULL, {columns} {calls},
                PRIMARY KEY (organization_id, bucket_start{keys}, sequence));
            {protect(f"metering.{prefix}_measurements", tenant_role=TENANT)}
            {protect(f"metering.{prefix}_calls", tenant_role=TENANT)}
        """)
    for table in (
        "sealed_spans",
        "sealed_measurements",
        "sealed_calls",
        "subject_sealed_measurements",
        "subject_sealed_calls",
    ):
        # The writer seals the one organization that its transaction names. Nobody changes what is sealed.
        op.execute(f"""
            ALTER POLICY tenant ON metering.{table} TO {TENANT}, {WRITER};
            GRANT SELECT ON metering.{table} TO {TENANT};
            GRANT SELECT, INSERT ON metering.{table} TO {WRITER};
        """)


def _make_partitions() -> None:
    op.execute(f"""
        CREATE FUNCTION metering.make_event_partition(week date) RETURNS void
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        DECLARE
            partition text := 'events_' || to_char(week, 'YYYYMMDD');
        BEGIN
            IF to_regclass('metering.' || partition) IS NOT NULL THEN
                RETURN;
            END IF;
            EXECUTE format(
                'CREATE TABLE metering.%I PARTITION OF metering.events FOR VALUES FROM (%L) TO (%L)',
                partition, week::text || ' 00:00:00+00', (week + 7)::text || ' 00:00:00+00');
            EXECUTE format('ALTER TABLE metering.%I ENABLE ROW LEVEL SECURITY', partition);
            EXECUTE format('ALTER TABLE metering.%I FORCE ROW LEVEL SECURITY', partition);
            EXECUTE format(
                'CREATE POLICY tenant ON metering.%I TO {TENANT} USING (organization_id = %s)',
                partition, $policy${CURRENT_ORGANIZATION}$policy$);
        END $$;
        REVOKE ALL ON FUNCTION metering.make_event_partition(date) FROM PUBLIC;

        CREATE OR REPLACE FUNCTION metering.make_event_partitions(days_ahead integer) RETURNS void
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        DECLARE
            today date := (now() AT TIME ZONE 'UTC')::date;
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtext('metering.make_event_partitions'));
            PERFORM metering.make_event_partition(week::date)
            FROM generate_series(date_trunc('week', today::timestamp), today + days_ahead, '7 days') AS weeks (week);
        END $$;

        -- The weeks of events: those of the ledger, and those on their way out.
        CREATE VIEW metering.event_weeks AS
            SELECT to_date(substr(relname, 8), 'YYYYMMDD') AS week,
                EXISTS (SELECT FROM pg_inherits
                        WHERE inhrelid = tables.oid AND inhparent = 'metering.events'::regclass) AS is_attached
            FROM pg_class AS tables
            WHERE relnamespace = 'metering'::regnamespace AND relkind = 'r' AND relname ~ '^events_[0-9]{{8}}$';
        GRANT SELECT ON metering.event_weeks TO {FLEET};
    """)  # noqa: S608 - constants of ours


def _make_retirement() -> None:
    op.execute(f"""
        -- The weeks whose raw events are in a file. Of no organization, and narrow.
        CREATE TABLE metering.archived_weeks (
            week date PRIMARY KEY,
            file_name text NOT NULL,
            sha256 bytea NOT NULL CHECK (length(sha256) = 32),
            row_count bigint NOT NULL CHECK (row_count >= 0),
            byte_count bigint NOT NULL CHECK (byte_count > 0),
            archive_time timestamptz NOT NULL,
            detach_time timestamptz,
            drop_time timestamptz);
        GRANT SELECT, INSERT, UPDATE (file_name, sha256, row_count, byte_count, archive_time)
            ON metering.archived_weeks TO {FLEET};

        -- Takes a week out of the ledger. NULL: done; else why not, and nothing was changed. The lock comes last, when
        -- all that is left to do under it is the detaching.
        CREATE FUNCTION metering.detach_event_partition(old_week date, followers text[]) RETURNS text
        LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp SET lock_timeout = '{LOCK_TIMEOUT}' AS $$
        DECLARE
            archived metering.archived_weeks;
            problem text;
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtext('metering.retire_event_partition'));
            IF old_week + 7 > (now() AT TIME ZONE 'UTC')::date - {DAYS_MIN} THEN
                RETURN 'the week is younger than {DAYS_MIN} days';
            END IF;
            IF old_week IS DISTINCT FROM (SELECT min(week) FROM metering.event_weeks WHERE is_attached) THEN
                RETURN 'it is not the oldest week of the ledger';
            END IF;
            SELECT * INTO archived FROM metering.archived_weeks WHERE week = old_week;
            IF NOT FOUND THEN
                RETURN 'it is not archived';
            END IF;
            IF archived.row_count <> (SELECT coalesce(sum(sequence - after_sequence), 0)
                                      FROM metering.sealed_spans WHERE week = old_week) THEN
                RETURN 'archive and sealed totals are not of the same events';
            END IF;
            SELECT organization_id INTO problem
            FROM metering.sealed_spans LEFT JOIN metering.ledger_horizons AS horizons USING (organization_id)
            WHERE week = old_week
            GROUP BY organization_id, horizons.sequence
            HAVING min(after_sequence) <> coalesce(horizons.sequence, 0)
                OR sum(sealed_spans.sequence - after_sequence) <> max(sealed_spans.sequence) - min(after_sequence)
            LIMIT 1;
            IF FOUND THEN
                RETURN 'sealed totals do not follow the horizon of ' || problem;
            END IF;
            SELECT follower || ' has not passed ' || span.organization_id INTO problem
            FROM metering.sealed_spans AS span CROSS JOIN unnest(followers) AS required (follower)
            LEFT JOIN metering.confirmed_positions AS confirmed USING (organization_id, follower)
            WHERE week = old_week AND (confirmed.sequence >= span.sequence
                AND coalesce(confirmed.needed_from > span.last_event_time, true)) IS NOT TRUE
            LIMIT 1;
            IF FOUND THEN
                RETURN problem;
            END IF;
            INSERT INTO metering.ledger_horizons AS horizons (organization_id, sequence, commit_id)
            SELECT DISTINCT ON (organization_id) organization_id, sequence, commit_id
            FROM metering.sealed_spans WHERE week = old_week ORDER BY organization_id, sequence DESC
            ON CONFLICT (organization_id) DO UPDATE SET sequence = excluded.sequence, commit_id = excluded.commit_id;
            UPDATE metering.archived_weeks SET detach_time = now() WHERE week = old_week;
            EXECUTE format('ALTER TABLE metering.events DETACH PARTITION metering.%I',
                'events_' || to_char(old_week, 'YYYYMMDD'));
            RETURN NULL;
        END $$;

        -- Drops a week that is out of the ledger, if it holds exactly what was sealed. NULL: done, now or before.
        CREATE FUNCTION metering.drop_event_partition(old_week date) RETURNS text
        LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp SET lock_timeout = '{LOCK_TIMEOUT}' AS $$
        DECLARE
            partition text := 'events_' || to_char(old_week, 'YYYYMMDD');
            differing text;
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtext('metering.retire_event_partition'));
            IF NOT EXISTS (SELECT FROM metering.event_weeks WHERE week = old_week) THEN
                RETURN NULL;
            END IF;
            IF NOT EXISTS (SELECT FROM metering.event_weeks JOIN metering.archived_weeks USING (week)
                           WHERE week = old_week AND NOT is_attached AND detach_time IS NOT NULL) THEN
                RETURN 'it was not taken out of the ledger by us';
            END IF;
            -- So that the owner sees the rows; undone with everything else if they are not what they should be.
            EXECUTE format('ALTER TABLE metering.%I NO FORCE ROW LEVEL SECURITY', partition);
            EXECUTE format($query$
                SELECT organization_id
                FROM (SELECT organization_id, min(sequence) AS first, max(sequence) AS last, count(*) AS event_count
                      FROM metering.%I GROUP BY organization_id) AS held
                FULL JOIN (SELECT organization_id, min(after_sequence) + 1 AS first, max(sequence) AS last,
                              sum(sequence - after_sequence) AS event_count
                           FROM metering.sealed_spans WHERE week = $1 GROUP BY organization_id) AS sealed
                USING (organization_id)
                WHERE (held.first, held.last, held.event_count)
                    IS DISTINCT FROM (sealed.first, sealed.last, sealed.event_count) LIMIT 1
                $query$, partition) INTO differing USING old_week;
            IF differing IS NOT NULL THEN
                EXECUTE format('ALTER TABLE metering.%I FORCE ROW LEVEL SECURITY', partition);
                RETURN 'it does not hold what was sealed of ' || differing;
            END IF;
            EXECUTE format('DROP TABLE metering.%I', partition);
            UPDATE metering.archived_weeks SET drop_time = now() WHERE week = old_week;
            RETURN NULL;
        END $$;

        REVOKE ALL ON FUNCTION metering.detach_event_partition(date, text[]) FROM PUBLIC;
        REVOKE ALL ON FUNCTION metering.drop_event_partition(date) FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION metering.detach_event_partition(date, text[]) TO {FLEET};
        GRANT EXECUTE ON FUNCTION metering.drop_event_partition(date) TO {FLEET};
    """)  # noqa: S608 - constants of ours
