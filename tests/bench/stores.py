"""Postgres as it is measured: durable, with a ledger, and beside it the baseline's table."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from kit.clock import from_unix_microseconds
from kit.postgres.embedded import EmbeddedPostgres
from kit.postgres.migrate import migrate
from kit.testing.stores import free_port
from services.metering.domain.events import UsageEvent
from tests.conftest import ROLE_KINDS

PASSWORDS = {kind: f"{kind}-password-of-bench" for kind in ROLE_KINDS}


@asynccontextmanager
async def durable_postgres(folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A server with the suite's own settings: fsync and synchronous_commit on."""
    server = EmbeddedPostgres(folder / "postgres", free_port())
    try:
        await server.start()
        await server.wait_ready(60.0)
        yield server
    finally:
        await server.stop(10.0)


@dataclass(frozen=True, kw_only=True)
class LedgerDatabase:
    """One database with a ledger."""

    owner_url: str

    def role_urls(self, service: str = "metering") -> dict[str, str]:
        """The URL of each of a service's roles, by kind."""
        place = self.owner_url.rpartition("@")[2]
        return {
            kind: f"postgresql://tollbook_{service}_{kind}:{password}@{place}" for kind, password in PASSWORDS.items()
        }

    def connect(self) -> psycopg.Connection:
        """A connection of the owner."""
        return psycopg.connect(self.owner_url, autocommit=True)


def ledger_database(server: EmbeddedPostgres, name: str) -> LedgerDatabase:
    """A database of that name with a ledger, the costs of analytics, the limits of quota, and the baseline's table."""
    url = urlunsplit(urlsplit(server.url)._replace(path=f"/{name}"))
    with psycopg.connect(server.url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    for service in ("metering", "analytics", "quota"):
        migrate(url, service, PASSWORDS)
    database = LedgerDatabase(owner_url=url)
    with database.connect() as owner:
        week = datetime.now(UTC).date() - timedelta(days=datetime.now(UTC).weekday())
        owner.execute(
            sql.SQL(
                "CREATE SCHEMA baseline;"
                " CREATE TABLE baseline.events (LIKE metering.events INCLUDING ALL) PARTITION BY RANGE (receive_time);"
                " CREATE TABLE baseline.events_now PARTITION OF baseline.events FOR VALUES FROM ({}) TO ({})"
            ).format(sql.Literal(week.isoformat()), sql.Literal((week + timedelta(days=14)).isoformat()))
        )
    return database


def age(database: LedgerDatabase, *, weeks: int, identities: int, organization_ids: Sequence[str]) -> None:
    """Gives the ledger a past: a partition for each week, and identities of events that are long gone."""
    with database.connect() as owner:
        owner.execute(f"""
            DO $$ DECLARE week date := date_trunc('week', now() AT TIME ZONE 'UTC')::date; BEGIN
                FOR number IN 1..{weeks} LOOP
                    week := week - 7;
                    EXECUTE format(
                        'CREATE TABLE metering.%I PARTITION OF metering.events FOR VALUES FROM (%L) TO (%L)',
                        'events_' || to_char(week, 'YYYYMMDD'),
                        week::text || ' 00:00:00+00', (week + 7)::text || ' 00:00:00+00');
                END LOOP;
            END $$
        """)
        owner.execute(
            """
            INSERT INTO metering.event_identities (organization_id, identity, content, content_version, sequence)
            SELECT (%s::text[])[1 + number %% %s], decode(md5(number::text), 'hex'), decode(md5(number::text), 'hex'),
                1, -number FROM generate_series(1, %s) AS number
            """,
            (list(organization_ids), len(organization_ids), identities),
        )
        owner.execute("VACUUM ANALYZE metering.event_identities")
        owner.execute("CHECKPOINT")


_COLUMNS = {
    "organization_id": "text", "sequence": "int8", "commit_id": "text", "receive_time": "timestamptz",
    "source": "text", "id": "text", "event_time": "timestamptz", "event_time_nanos": "int2", "project_id": "text",
    "team_id": "text", "user_id": "text", "agent_id": "text", "task_id": "text", "session_id": "text",
    "measurements": "jsonb", "provider_call": "jsonb", "reservation_id": "text", "reservation_final": "bool",
}  # fmt: skip


def copy_rate(database: LedgerDatabase, events: Sequence[UsageEvent], batch_events: int) -> float:
    """Events per second of binary COPY of the same rows into a table that is partitioned and indexed as the ledger's
    events are, without dedupe, heads and row-level security; a transaction for each batch.
    """
    rows = [_row(number, event) for number, event in enumerate(events)]
    batches = [rows[start : start + batch_events] for start in range(0, len(rows), batch_events)]
    statement = sql.SQL("COPY baseline.events ({}) FROM STDIN (FORMAT binary)").format(
        sql.SQL(", ").join(map(sql.Identifier, _COLUMNS))
    )
    with psycopg.connect(database.owner_url) as connection, connection.cursor() as cursor:
        started = perf_counter()
        for batch in batches:
            with cursor.copy(statement) as copy:
                copy.set_types(list(_COLUMNS.values()))
                for row in batch:
                    copy.write_row(row)
            connection.commit()
        return len(rows) / (perf_counter() - started)


def _row(number: int, event: UsageEvent) -> tuple[object, ...]:
    subject, call = event.subject, event.provider_call
    assert event.event_time_ns is not None
    assert call is not None
    return (
        subject.organization_id, number, "0123456789abcdef", datetime.now(UTC), event.source, event.id,
        from_unix_microseconds(event.event_time_ns // 1_000), event.event_time_ns % 1_000, subject.project_id,
        subject.team_id, subject.user_id, subject.agent_id, subject.task_id, subject.session_id,
        _encoded({each.meter: each.quantity for each in event.measurements}), _encoded(asdict(call)), "", False,
    )  # fmt: skip


def _encoded(value: object) -> Jsonb:
    # Encoded beforehand: the baseline copies, it does not make JSON.
    return Jsonb(json.dumps(value), dumps=str)


_TABLES_OF_EVENTS = {
    "events": ("events",),
    "what dedupe remembers": ("event_identities",),
    "rollups": ("rollup_measurements", "rollup_calls", "subject_rollup_measurements", "subject_rollup_calls"),
}


def disk_bytes(database: LedgerDatabase) -> dict[str, float]:
    """Bytes on disk per event: rows, and all indexes, of events, of what dedupe remembers, and of rollups."""
    found: dict[str, float] = {}
    with database.connect() as owner:
        count = _one(owner, "SELECT count(*) FROM metering.events")[0]
        for name, tables in _TABLES_OF_EVENTS.items():
            owner.execute(
                sql.SQL("VACUUM {}").format(sql.SQL(", ").join(sql.Identifier("metering", t) for t in tables))
            )
            rows, indexes = _one(
                owner,
                """
                SELECT sum(pg_table_size(leaf.relid)), sum(pg_indexes_size(leaf.relid))
                FROM unnest(%s::text[]) AS name
                CROSS JOIN LATERAL (
                    SELECT relid FROM pg_partition_tree(('metering.' || name)::regclass) WHERE isleaf
                    UNION SELECT ('metering.' || name)::regclass
                ) AS leaf
                """,
                [list(tables)],
            )
            found[f"{name}, rows"] = float(rows) / count
            found[f"{name}, indexes"] = float(indexes) / count
    return found


def _one(owner: psycopg.Connection, statement: LiteralString, names: Sequence[object] = ()) -> tuple[Any, ...]:
    row = owner.execute(statement, names).fetchone()
    assert row is not None
    return row


def server_version(database: LedgerDatabase) -> str:
    """What the server says it is, and how it is set."""
    with database.connect() as owner:
        settings = {
            name: (owner.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone() or ("",))[0]
            for name in ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        }
    return json.dumps(settings)


def fill(database: LedgerDatabase, organization_id: str, count: int, *, days: int, until: datetime) -> None:
    """Gives an organization a ledger of so many events, evenly over the days up to a moment, in sessions of a hundred.
    Rows as the ledger writes them, without what it remembers of their identities.
    """
    with database.connect() as owner:
        owner.execute(
            """
            INSERT INTO metering.events (organization_id, sequence, commit_id, receive_time, source, id, event_time,
                event_time_nanos, project_id, team_id, user_id, agent_id, task_id, session_id, measurements,
                provider_call, reservation_id, reservation_final)
            SELECT %(organization)s, number, 'commit', now(), 'orchestrator', 'event-' || number,
                %(until)s - (%(count)s - number) * (%(days)s * interval '1 day' / %(count)s), 0,
                'project-' || session %% 20, 'team-' || session %% 5, 'usr_' || session %% 100,
                'agent-' || session %% 50, 'task_' || number / 10, 'session_' || session,
                jsonb_build_object('agent_minutes', 1000 + number %% 60000, 'tokens_input', 1500 + number %% 3000,
                    'tokens_output', 200 + number %% 800),
                jsonb_build_object('provider', 'openai_codex', 'model', 'gpt-5-codex', 'operation', 'completion',
                    'tokens_input_uncached', 1000 + number %% 3000, 'tokens_cache_read', 500, 'tokens_cache_write', 0,
                    'tokens_output', 150 + number %% 800, 'tokens_reasoning', 50,
                    'latency_ns', 1200000000 + number, 'outcome', 1, 'error_code', ''), '', false
            FROM (SELECT number, number / 100 AS session FROM generate_series(1, %(count)s) AS number) AS numbers
            """,
            {"organization": organization_id, "count": count, "days": days, "until": until},
        )
        owner.execute(
            "INSERT INTO metering.ledger_heads (organization_id, sequence, commit_id) VALUES (%s, %s, 'commit')",
            (organization_id, count),
        )
