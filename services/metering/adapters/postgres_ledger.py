"""The ledger in Postgres.

Appending runs as the writer role, reading as the tenant role, heads as the fleet role; see migrations/0001_ledger.py.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from psycopg.errors import CheckViolation
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable, LogRewound
from kit.feed import Page, Position
from kit.head_watch import Look
from kit.postgres.arrays import bytes_array, number_array, text_array, time_array
from kit.postgres.database import Database, set_organization
from kit.postgres.heads import look_at_heads
from services.metering.adapters.event_rows import (
    EVENT_ARRAYS,
    EVENT_COLUMNS,
    READ_COLUMNS,
    entries_from_rows,
    event_arrays,
)
from services.metering.adapters.postgres_positions import horizon_of, position_at, reading_events
from services.metering.adapters.postgres_usage import measured_totals, member_totals
from services.metering.application.ports import EventPage, Interval, Totals
from services.metering.domain import limits
from services.metering.domain.acceptance import Candidate, Fresh, Outcome, Recorded, Target, accept, candidate
from services.metering.domain.digests import CONTENT_VERSION
from services.metering.domain.events import LedgerEvent, UsageEvent
from services.metering.domain.members import LevelMeters, MemberTotal, largest
from services.metering.domain.retention import refuse_before
from services.metering.domain.windows import Window


class PostgresLedgerWriter:
    """LedgerWriter as the writer role."""

    def __init__(self, writer: Database) -> None:
        self._writer = writer

    async def append(self, events: Sequence[UsageEvent], *, now: datetime) -> Sequence[Outcome]:
        """As LedgerWriter."""
        async with self._writer.transaction() as connection:
            return await append_within(connection, events, now=now)


async def append_within(connection: AsyncConnection, events: Sequence[UsageEvent], *, now: datetime) -> list[Outcome]:
    """As LedgerWriter.append, in a transaction of the caller's: what it did besides is committed with the events. It
    may hold no organization's head yet, and holds those of the events from here on, until it ends.
    """
    batches: dict[str, list[Candidate]] = defaultdict(list)
    for event in events:
        batches[event.subject.organization_id].append(candidate(event))
    outcomes = await _append(connection, batches, now)
    following = {organization_id: iter(decided) for organization_id, decided in outcomes.items()}
    return [next(following[event.subject.organization_id]) for event in events]


async def _append(
    connection: AsyncConnection, batches: Mapping[str, Sequence[Candidate]], now: datetime
) -> dict[str, Sequence[Outcome]]:
    # The locks on the heads are held until commit: nobody else can record for these organizations meanwhile, so what is
    # read after them stays true, and sequences are in commit order without a gap.
    heads = {"organization_ids": text_array(batches), "now": now}
    await connection.execute(_LOCK_HEADS, heads)
    locked = {row.organization_id: row for row in await connection.execute(_LOCKED_HEADS, heads)}
    # Never back in an organization's ledger, whatever waits and clocks do: what is older by receive_time is older by
    # sequence too, and can be dropped together. Each by its own: a clock that ran ahead once would else be handed on
    # from batch to batch, to everybody.
    receive_times = {organization_id: max(now, row.update_time) for organization_id, row in locked.items()}
    recorded = await _recorded(connection, batches)
    commit_id = secrets.token_hex(8)
    outcomes: dict[str, Sequence[Outcome]] = {}
    fresh: dict[str, Sequence[Fresh]] = {}
    volumes: dict[str, int] = {}
    for organization_id, batch in batches.items():
        acceptance = accept(
            batch,
            recorded[organization_id],
            await _targets(connection, organization_id, batch),
            head_sequence=locked[organization_id].sequence,
            volume=int(locked[organization_id].volume),
            now=now,
        )
        outcomes[organization_id] = acceptance.outcomes
        if acceptance.fresh:
            fresh[organization_id], volumes[organization_id] = acceptance.fresh, acceptance.volume
    if fresh:
        batch_names = {"commit_id": commit_id}
        await connection.execute(_REMEMBER, _identity_arrays(fresh))
        entries = [
            each.entry(commit_id, receive_time_us)
            for organization_id, appended in fresh.items()
            for receive_time_us in [unix_microseconds(receive_times[organization_id])]
            for each in appended
        ]
        await _append_entries(connection, batch_names | event_arrays(entries))
        if reversals := _reversal_arrays(fresh):
            await connection.execute(_REVERSE, reversals)
        moved = {
            "organization_ids": text_array(fresh),
            "sequences": number_array([appended[-1].sequence for appended in fresh.values()]),
            "volumes": number_array(volumes.values()),
            "receive_times": time_array([receive_times[organization_id] for organization_id in fresh]),
        }
        await connection.execute(_MOVE_HEADS, batch_names | moved)
    return outcomes


async def _append_entries(connection: AsyncConnection, names: Mapping[str, Any]) -> None:
    try:
        await connection.execute(_APPEND, names)
    except IntegrityError as error:
        # The state of a broken CHECK, but without a constraint. Whoever sends again finds the partition made.
        if isinstance(error.orig, CheckViolation) and error.orig.diag.constraint_name is None:
            raise DependencyUnavailable(dependency="metering: today's partition of events is missing; it") from error
        raise


async def _recorded(
    connection: AsyncConnection, batches: Mapping[str, Sequence[Candidate]]
) -> dict[str, dict[bytes, Recorded]]:
    """What is remembered of the identities of the batches, by organization."""
    identities = [(organization_id, each.identity) for organization_id, batch in batches.items() for each in batch]
    rows = await connection.execute(_KNOWN, _asked(identities))
    known: dict[str, dict[bytes, Recorded]] = {organization_id: {} for organization_id in batches}
    for row in rows:
        recorded = Recorded(row.sequence, bytes(row.content), row.content_version)
        known[row.organization_id][bytes(row.identity)] = recorded
    return known


async def _targets(
    connection: AsyncConnection, organization_id: str, batch: Sequence[Candidate]
) -> dict[bytes, Target]:
    """What the reversals of the batch name, as far as it was recorded before it."""
    identities = [(organization_id, each.target) for each in batch if each.target is not None]
    if not identities:
        return {}
    found = (await connection.execute(_TARGETS, _asked(identities))).all()
    # The writer sees the events of no organization but the one named here, until the transaction ends.
    await connection.exec_driver_sql(set_organization(organization_id))
    sequences = number_array([row.sequence for row in found])
    rows = await connection.execute(_EVENTS_AT, {"organization_id": organization_id, "sequences": sequences})
    events = {entry.sequence: entry.event for entry in entries_from_rows(rows.all())}
    return {
        bytes(row.identity): Target(row.sequence, events.get(row.sequence), is_settled=row.is_settled) for row in found
    }


def _asked(identities: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
    return {
        "organization_ids": text_array([organization_id for organization_id, _ in identities]),
        "identities": bytes_array([identity for _, identity in identities]),
    }


def _identity_arrays(fresh: Mapping[str, Sequence[Fresh]]) -> dict[str, Any]:
    appended = [(organization_id, each) for organization_id, batch in fresh.items() for each in batch]
    return {
        "organization_ids": text_array([organization_id for organization_id, _ in appended]),
        "identities": bytes_array([each.candidate.identity for _, each in appended]),
        "contents": bytes_array([each.candidate.content for _, each in appended]),
        "content_version": CONTENT_VERSION,
        "sequences": number_array([each.sequence for _, each in appended]),
    }


def _reversal_arrays(fresh: Mapping[str, Sequence[Fresh]]) -> dict[str, Any]:
    """Empty when nothing is reversed."""
    reversals = [
        (organization_id, each.target.sequence, each.sequence)
        for organization_id, batch in fresh.items()
        for each in batch
        if each.target is not None
    ]
    if not reversals:
        return {}
    return {
        "organization_ids": text_array([organization_id for organization_id, _, _ in reversals]),
        "target_sequences": number_array([target_sequence for _, target_sequence, _ in reversals]),
        "sequences": number_array([sequence for _, _, sequence in reversals]),
    }


class PostgresLedgerReader:
    """LedgerReader as the tenant role."""

    def __init__(self, tenant: Database) -> None:
        self._tenant = tenant

    async def totals(
        self,
        organization_id: str,
        interval: Interval,
        *,
        as_of_sequence: int | None,
        levels: Sequence[LevelMeters] = (),
        members_max: int = limits.SNAPSHOT_MEMBERS_MAX,
    ) -> Totals:
        """As LedgerReader."""
        async with reading_events(self._tenant, organization_id) as connection:
            position = await position_at(connection, organization_id, as_of_sequence)
            edges = (None if edge is None else unix_microseconds(edge) for edge in (interval.start, interval.end))
            window = Window(*edges)
            quantities = await measured_totals(connection, organization_id, window, position)
            members: list[MemberTotal] = []
            for asked in levels:
                members += await member_totals(
                    connection, organization_id, window, position, asked, members_max=members_max
                )
            return Totals(dict(sorted(quantities.items())), position, largest(members, at_most=members_max))

    async def read(self, organization_id: str, after: Position) -> AsyncIterator[Page[LedgerEvent]]:
        """As LedgerReader; each page is a transaction of its own, so a slow reader holds no snapshot open."""
        position = after
        async with reading_events(self._tenant, organization_id) as connection:
            head = await position_at(connection, organization_id, None)
            if await position_at(connection, organization_id, after.sequence) != after:
                raise LogRewound(sequence=after.sequence)
        while position.sequence < head.sequence:
            names: dict[str, Any] = {
                "organization_id": organization_id,
                "after": position.sequence,
                "upto": min(head.sequence, position.sequence + limits.PAGE_EVENTS),
            }
            async with self._tenant.transaction(organization_id=organization_id) as connection:
                rows = (await connection.execute(_PAGE, names)).all()
                if rows and rows[0].sequence == position.sequence:
                    if rows[0].commit_id != position.commit_id:
                        # It was rewound since the last page, and grew again (a failover while the reader was slow).
                        raise LogRewound(sequence=position.sequence)
                    rows = rows[1:]
                if len(rows) != names["upto"] - position.sequence:
                    # A gap must never pass for the absence of entries: they were dropped under the reader, or lost (a
                    # restored backup). Within the transaction that missed them, so that the horizon tells which.
                    refuse_before(await horizon_of(connection, organization_id), position.sequence)
                    raise LogRewound(sequence=position.sequence)
            entries = tuple(entries_from_rows(rows))
            position = Position(entries[-1].sequence, entries[-1].commit_id)
            yield Page(entries, position)

    async def page(self, organization_id: str, interval: Interval, *, after_sequence: int, count: int) -> EventPage:
        """As LedgerReader."""
        names = {
            "organization_id": organization_id,
            "start": interval.start,
            "end": interval.end,
            "after": after_sequence,
            "count": count,
        }
        async with self._tenant.transaction(organization_id=organization_id) as connection:
            entries = entries_from_rows((await connection.execute(_LIST, names)).all())
            return EventPage(entries, (await horizon_of(connection, organization_id)).sequence)


class PostgresLedgerHeads:
    """LedgerHeads as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def heads(self, mark: str) -> Look:
        """As LedgerHeads."""
        async with self._fleet.transaction() as connection:
            return await look_at_heads(connection, "metering.ledger_heads", mark)

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


# Locks the heads one by one in the same order for everybody, so that two batches that share organizations cannot wait
# for each other in a circle; and begins those that are missing. What is there is locked and not written.
_LOCK_HEADS = text("""
    INSERT INTO metering.ledger_heads (organization_id, sequence, commit_id, update_time)
    SELECT organization_id, 0, '', :now FROM unnest(CAST(:organization_ids AS text[])) AS asked (organization_id)
    ORDER BY organization_id COLLATE "C"
    ON CONFLICT (organization_id) DO UPDATE SET sequence = 0 WHERE false
""")
# A statement of its own: it sees what was committed while the one before waited.
_LOCKED_HEADS = text("""
    SELECT organization_id, sequence, volume, update_time FROM metering.ledger_heads
    WHERE organization_id = ANY(CAST(:organization_ids AS text[]))
""")
# LATERAL and OFFSET 0 leave the planner one way: look up each identity by the index.
_KNOWN = text("""
    SELECT known.organization_id, known.identity, known.content, known.content_version, known.sequence
    FROM unnest(CAST(:organization_ids AS text[]), CAST(:identities AS bytea[])) AS asked (organization_id, identity)
    CROSS JOIN LATERAL (
        SELECT * FROM metering.event_identities AS identities
        WHERE identities.organization_id = asked.organization_id AND identities.identity = asked.identity OFFSET 0
    ) AS known
""")
_TARGETS = text("""
    SELECT known.identity, known.sequence,
        EXISTS (SELECT FROM metering.reversals
                WHERE organization_id = known.organization_id AND target_sequence = known.sequence)
        OR EXISTS (SELECT FROM metering.reversals
                   WHERE organization_id = known.organization_id AND sequence = known.sequence) AS is_settled
    FROM unnest(CAST(:organization_ids AS text[]), CAST(:identities AS bytea[])) AS asked (organization_id, identity)
    JOIN metering.event_identities AS known USING (organization_id, identity)
""")
_EVENTS_AT = text(f"""
    SELECT {READ_COLUMNS} FROM metering.events
    WHERE organization_id = :organization_id AND sequence = ANY(CAST(:sequences AS bigint[]))
""")  # noqa: S608 - constants of ours
_REMEMBER = text("""
    INSERT INTO metering.event_identities (organization_id, identity, content, content_version, sequence)
    SELECT organization_id, identity, content, :content_version, sequence
    FROM unnest(CAST(:organization_ids AS text[]), CAST(:identities AS bytea[]), CAST(:contents AS bytea[]),
                CAST(:sequences AS bigint[])) AS fresh (organization_id, identity, content, sequence)
""")
_APPEND = text(f"""
    INSERT INTO metering.events ({EVENT_COLUMNS}, commit_id)
    SELECT fresh.*, CAST(:commit_id AS text) FROM unnest({EVENT_ARRAYS}) AS fresh
""")  # noqa: S608 - constants of ours
_REVERSE = text("""
    INSERT INTO metering.reversals (organization_id, target_sequence, sequence)
    SELECT * FROM unnest(
        CAST(:organization_ids AS text[]), CAST(:target_sequences AS bigint[]), CAST(:sequences AS bigint[]))
""")
_MOVE_HEADS = text("""
    UPDATE metering.ledger_heads AS heads
    SET sequence = moved.sequence, volume = moved.volume, commit_id = :commit_id, update_time = moved.receive_time
    FROM unnest(CAST(:organization_ids AS text[]), CAST(:sequences AS bigint[]), CAST(:volumes AS numeric[]),
                CAST(:receive_times AS timestamptz[])) AS moved (organization_id, sequence, volume, receive_time)
    WHERE heads.organization_id = moved.organization_id
""")
_HAS_PARTITION = text("""
    SELECT to_regclass('metering.events_' || to_char(date_trunc('week', tomorrow), 'YYYYMMDD')) IS NOT NULL
    FROM (SELECT (now() AT TIME ZONE 'UTC') + interval '1 day' AS tomorrow) AS clock
""")
# With the entry that the page comes after: whether it is still the one that was read.
_PAGE = text(f"""
    SELECT {READ_COLUMNS} FROM metering.events
    WHERE organization_id = :organization_id AND sequence >= :after AND sequence <= :upto ORDER BY sequence
""")  # noqa: S608 - constants of ours
_LIST = text(f"""
    SELECT {READ_COLUMNS} FROM metering.events
    WHERE organization_id = :organization_id AND sequence > :after
      AND (CAST(:start AS timestamptz) IS NULL OR event_time >= :start)
      AND (CAST(:end AS timestamptz) IS NULL OR event_time < :end)
    ORDER BY sequence LIMIT :count
""")  # noqa: S608 - constants of ours
