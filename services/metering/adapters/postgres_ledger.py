"""The ledger in Postgres.

Appending runs as the writer role, reading as the tenant role, heads as the fleet role; see migrations/0001_ledger.py.
"""

from __future__ import annotations

import json
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from time import monotonic
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import from_unix_microseconds, unix_microseconds
from kit.errors import DependencyUnavailable, LogRewound
from kit.feed import START, Head, Page, Position
from kit.postgres.database import Database
from services.metering.application.ports import Interval, Totals
from services.metering.domain import limits
from services.metering.domain.acceptance import Fresh, Outcome, Recorded, accept
from services.metering.domain.digests import CONTENT_VERSION, identity_digest
from services.metering.domain.events import LedgerEvent, Measurement, Meter, ProviderCall, Subject, UsageEvent

METERS_BELIEVED_SECONDS = 5.0


class PostgresLedgerWriter:
    """LedgerWriter as the writer role."""

    def __init__(self, writer: Database) -> None:
        self._writer = writer

    async def append(self, events: Sequence[UsageEvent], *, now: datetime) -> Sequence[Outcome]:
        """As LedgerWriter."""
        indices: dict[str, list[int]] = defaultdict(list)
        for index, event in enumerate(events):
            indices[event.subject.organization_id].append(index)
        outcomes: dict[int, Outcome] = {}
        async with self._writer.transaction() as connection:
            # One by one in sorted order: two batches that share organizations cannot wait for each other in a circle.
            for organization_id in sorted(indices):
                places = indices[organization_id]
                batch = [events[place] for place in places]
                appended = await _append_to_one(connection, organization_id, batch, now)
                outcomes.update(zip(places, appended, strict=True))
        return [outcomes[index] for index in range(len(events))]


async def _append_to_one(
    connection: AsyncConnection, organization_id: str, batch: Sequence[UsageEvent], now: datetime
) -> Sequence[Outcome]:
    # The lock on the head is held until commit: nobody else can record for this organization meanwhile, so what is
    # read here stays true, and sequences are in commit order without a gap.
    await connection.execute(_BEGIN_HEAD, {"organization_id": organization_id})
    head_sequence = (await connection.execute(_LOCK_HEAD, {"organization_id": organization_id})).scalar_one()
    known_rows = await connection.execute(
        _KNOWN,
        {"organization_id": organization_id, "identities": [identity_digest(event) for event in batch]},
    )
    known = {bytes(row.identity): Recorded(row.sequence, bytes(row.content)) for row in known_rows}
    acceptance = accept(batch, known, head_sequence=head_sequence, now=now)
    if acceptance.fresh:
        commit_id = secrets.token_hex(8)
        names: dict[str, Any] = {
            "organization_id": organization_id,
            "commit_id": commit_id,
            "receive_time": now,
        }
        await connection.execute(_REMEMBER, names | _identity_columns(acceptance.fresh))
        await connection.execute(_APPEND, names | _event_columns(acceptance.fresh))
        await connection.execute(_MOVE_HEAD, names | {"sequence": acceptance.fresh[-1].sequence})
    return acceptance.outcomes


class PostgresLedgerReader:
    """LedgerReader as the tenant role."""

    def __init__(self, tenant: Database) -> None:
        self._tenant = tenant

    async def totals(self, organization_id: str, interval: Interval, *, as_of_sequence: int | None) -> Totals:
        """As LedgerReader."""
        async with self._tenant.transaction(organization_id=organization_id, snapshot=True) as connection:
            position = await _position(connection, organization_id, as_of_sequence)
            names = {
                "organization_id": organization_id,
                "start": interval.start,
                "end": interval.end,
                "sequence": position.sequence,
            }
            rows = await connection.execute(_TOTALS, names)
            return Totals({row.meter: int(row.quantity) for row in rows}, position)

    async def read(self, organization_id: str, after: Position) -> AsyncIterator[Page[LedgerEvent]]:
        """As LedgerReader; each page is a transaction of its own, so a slow reader holds no snapshot open."""
        position = after
        async with self._tenant.transaction(organization_id=organization_id, snapshot=True) as connection:
            head = await _position(connection, organization_id, None)
            if after.sequence and await _position(connection, organization_id, after.sequence) != after:
                raise LogRewound(sequence=after.sequence)
        while position.sequence < head.sequence:
            names: dict[str, Any] = {
                "organization_id": organization_id,
                "after": position.sequence,
                "upto": min(head.sequence, position.sequence + limits.PAGE_EVENTS),
            }
            async with self._tenant.transaction(organization_id=organization_id) as connection:
                entries = tuple(_entry_from_row(row) for row in await connection.execute(_PAGE, names))
            if len(entries) != names["upto"] - position.sequence:
                # The log lost entries under the reader (a restored backup): a gap must never pass for their absence.
                raise LogRewound(sequence=position.sequence)
            position = Position(entries[-1].sequence, entries[-1].commit_id)
            yield Page(entries, position)


class PostgresLedgerHeads:
    """LedgerHeads as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def heads(self) -> Sequence[Head]:
        """As LedgerHeads."""
        async with self._fleet.transaction() as connection:
            rows = await connection.execute(_HEADS)
            return [Head(row.organization_id, Position(row.sequence, row.commit_id)) for row in rows]

    async def make_partitions(self) -> None:
        """Makes the partitions of the coming weeks; those that exist stay as they are."""
        async with self._fleet.transaction() as connection:
            await connection.execute(
                text("SELECT metering.make_event_partitions(:days)"), {"days": limits.PARTITION_DAYS_AHEAD}
            )

    async def require_partitions(self) -> None:
        """Raises DependencyUnavailable when the partition of tomorrow is missing: appends would fail soon."""
        async with self._fleet.transaction() as connection:
            if not (await connection.execute(_HAS_PARTITION)).scalar_one():
                raise DependencyUnavailable(dependency="metering: the next partition of events is missing; it")


class PostgresMeterCatalog:
    """MeterCatalog; believes what it read for a few seconds."""

    def __init__(self, tenant: Database) -> None:
        self._tenant = tenant
        self._meters: dict[str, Meter] = {}
        self._read_at = float("-inf")

    async def meters(self) -> Mapping[str, Meter]:
        """As MeterCatalog."""
        if monotonic() - self._read_at > METERS_BELIEVED_SECONDS:
            async with self._tenant.transaction() as connection:
                rows = (await connection.execute(_METERS)).all()
            self._meters = {
                row.name: Meter(
                    name=row.name,
                    base_unit=row.base_unit,
                    display_unit=row.display_unit,
                    base_units_per_display_unit=row.base_units_per_display_unit,
                )
                for row in rows
            }
            self._read_at = monotonic()
        return self._meters


async def _position(connection: AsyncConnection, organization_id: str, sequence: int | None) -> Position:
    """The head, or the position at a sequence if the ledger reaches that far."""
    row = (await connection.execute(_HEAD, {"organization_id": organization_id})).one_or_none()
    if row is None:
        return START
    if sequence is None or sequence >= row.sequence:
        return Position(row.sequence, row.commit_id)
    if sequence == 0:
        return START
    names = {"organization_id": organization_id, "sequence": sequence}
    return Position(sequence, (await connection.execute(_COMMIT_OF, names)).scalar_one())


def _identity_columns(fresh: Sequence[Fresh]) -> dict[str, Any]:
    return {
        "identities": [each.identity for each in fresh],
        "contents": [each.content for each in fresh],
        "sequences": [each.sequence for each in fresh],
        "content_version": CONTENT_VERSION,
    }


def _event_columns(fresh: Sequence[Fresh]) -> dict[str, Any]:
    events = [each.event for each in fresh]
    times_ns = [event.event_time_ns or 0 for event in events]
    return {
        "sequences": [each.sequence for each in fresh],
        "sources": [event.source for event in events],
        "ids": [event.id for event in events],
        "event_times": [from_unix_microseconds(time_ns // 1_000) for time_ns in times_ns],
        "event_time_nanos": [time_ns % 1_000 for time_ns in times_ns],
        "project_ids": [event.subject.project_id for event in events],
        "team_ids": [event.subject.team_id for event in events],
        "user_ids": [event.subject.user_id for event in events],
        "agent_ids": [event.subject.agent_id for event in events],
        "task_ids": [event.subject.task_id for event in events],
        "session_ids": [event.subject.session_id for event in events],
        "measurements": [json.dumps({each.meter: each.quantity for each in event.measurements}) for event in events],
        "provider_calls": [
            None if event.provider_call is None else json.dumps(asdict(event.provider_call)) for event in events
        ],
        "reservation_ids": [event.reservation_id for event in events],
        "reservation_finals": [event.reservation_final for event in events],
    }


def _entry_from_row(row: Row[Any]) -> LedgerEvent:
    return LedgerEvent(
        row.sequence,
        row.commit_id,
        unix_microseconds(row.receive_time),
        UsageEvent(
            id=row.id,
            source=row.source,
            subject=Subject(
                organization_id=row.organization_id,
                project_id=row.project_id,
                team_id=row.team_id,
                user_id=row.user_id,
                agent_id=row.agent_id,
                task_id=row.task_id,
                session_id=row.session_id,
            ),
            event_time_ns=unix_microseconds(row.event_time) * 1_000 + row.event_time_nanos,
            measurements=tuple(Measurement(meter, quantity) for meter, quantity in sorted(row.measurements.items())),
            provider_call=None if row.provider_call is None else ProviderCall(**row.provider_call),
            reservation_id=row.reservation_id,
            reservation_final=row.reservation_final,
        ),
    )


_BEGIN_HEAD = text("""
    INSERT INTO metering.ledger_heads (organization_id, sequence, commit_id) VALUES (:organization_id, 0, '')
    ON CONFLICT (organization_id) DO NOTHING
""")
_LOCK_HEAD = text("SELECT sequence FROM metering.ledger_heads WHERE organization_id = :organization_id FOR UPDATE")
_KNOWN = text("""
    SELECT identity, content, sequence FROM metering.event_identities
    WHERE organization_id = :organization_id AND identity = ANY(CAST(:identities AS bytea[]))
""")
_REMEMBER = text("""
    INSERT INTO metering.event_identities (organization_id, identity, content, content_version, sequence)
    SELECT :organization_id, identity, content, :content_version, sequence
    FROM unnest(CAST(:identities AS bytea[]), CAST(:contents AS bytea[]), CAST(:sequences AS bigint[]))
         AS fresh (identity, content, sequence)
""")
_APPEND = text("""
    INSERT INTO metering.events (
        organization_id, sequence, commit_id, receive_time, source, id, event_time, event_time_nanos, project_id,
        team_id, user_id, agent_id, task_id, session_id, measurements, provider_call, reservation_id, reservation_final)
    SELECT :organization_id, sequence, :commit_id, :receive_time, source, id, event_time, event_time_nanos, project_id,
        team_id, user_id, agent_id, task_id, session_id, measurements, provider_call, reservation_id, reservation_final
    FROM unnest(
        CAST(:sequences AS bigint[]), CAST(:sources AS text[]), CAST(:ids AS text[]),
        CAST(:event_times AS timestamptz[]), CAST(:event_time_nanos AS smallint[]), CAST(:project_ids AS text[]),
        CAST(:team_ids AS text[]), CAST(:user_ids AS text[]), CAST(:agent_ids AS text[]), CAST(:task_ids AS text[]),
        CAST(:session_ids AS text[]), CAST(:measurements AS jsonb[]), CAST(:provider_calls AS jsonb[]),
        CAST(:reservation_ids AS text[]), CAST(:reservation_finals AS boolean[]))
        AS fresh (sequence, source, id, event_time, event_time_nanos, project_id, team_id, user_id, agent_id, task_id,
                  session_id, measurements, provider_call, reservation_id, reservation_final)
""")
_MOVE_HEAD = text("""
    UPDATE metering.ledger_heads SET sequence = :sequence, commit_id = :commit_id, update_time = :receive_time
    WHERE organization_id = :organization_id
""")
_HEAD = text("SELECT sequence, commit_id FROM metering.ledger_heads WHERE organization_id = :organization_id")
_HEADS = text("SELECT organization_id, sequence, commit_id FROM metering.ledger_heads WHERE sequence > 0")
_HAS_PARTITION = text("""
    SELECT to_regclass('metering.events_' || to_char(date_trunc('week', tomorrow), 'YYYYMMDD')) IS NOT NULL
    FROM (SELECT (now() AT TIME ZONE 'UTC') + interval '1 day' AS tomorrow) AS clock
""")
_COMMIT_OF = text(
    "SELECT commit_id FROM metering.events WHERE organization_id = :organization_id AND sequence = :sequence"
)
_PAGE = text("""
    SELECT organization_id, sequence, commit_id, receive_time, source, id, event_time, event_time_nanos, project_id,
        team_id, user_id, agent_id, task_id, session_id, measurements, provider_call, reservation_id, reservation_final
    FROM metering.events
    WHERE organization_id = :organization_id AND sequence > :after AND sequence <= :upto ORDER BY sequence
""")
_TOTALS = text("""
    SELECT measurement.key AS meter, sum(CAST(measurement.value AS bigint)) AS quantity
    FROM metering.events, jsonb_each_text(measurements) AS measurement
    WHERE organization_id = :organization_id AND sequence <= :sequence
      AND (CAST(:start AS timestamptz) IS NULL OR event_time >= :start)
      AND (CAST(:end AS timestamptz) IS NULL OR event_time < :end)
    GROUP BY measurement.key ORDER BY measurement.key
""")
_METERS = text("SELECT name, base_unit, display_unit, base_units_per_display_unit FROM metering.meters ORDER BY name")
