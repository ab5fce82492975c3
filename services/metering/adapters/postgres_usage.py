"""Usage totals in Postgres, read as the tenant role: from rollups or sealed totals where they reach, else from events.

Every statement is composed of the constants below and of columns from `_COLUMNS`; what callers send travels as
parameters alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import from_unix_microseconds
from kit.feed import Position
from kit.postgres.database import Database
from services.metering.adapters.bucket_sums import BUCKET
from services.metering.adapters.postgres_positions import horizon_of, position_at, reading_events
from services.metering.adapters.usage_values import CALL_COLUMNS, CALL_VALUES, is_measured, value_name
from services.metering.application.ports import UsageAnswer
from services.metering.domain import limits
from services.metering.domain.grouping import Dimension, Label, SubjectPart
from services.metering.domain.members import LevelMeters, MemberTotal
from services.metering.domain.meters import Aggregation, Meter
from services.metering.domain.retention import raw_windows, refuse_finer
from services.metering.domain.rollups import ROLLED_UP, can_be_rolled_up_by, whole_buckets
from services.metering.domain.usage_query import UsageQuery, UsageRow
from services.metering.domain.windows import Window

_COLUMNS: Mapping[SubjectPart, str] = {part: f"{part.value}_id" for part in SubjectPart}
# Events stand inside these, since none is accepted from outside the years that a timestamp can name.
_BEGINNING, _END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class PostgresUsageReader:
    """UsageReader as the tenant role."""

    def __init__(self, tenant: Database) -> None:
        self._tenant = tenant

    async def usage(self, organization_id: str, query: UsageQuery, *, as_of_sequence: int | None) -> UsageAnswer:
        """As UsageReader."""
        async with reading_events(self._tenant, organization_id) as connection:
            position = await position_at(connection, organization_id, as_of_sequence)
            if not query.windows or not position.sequence:
                return UsageAnswer((), position)
            horizon = await horizon_of(connection, organization_id)
            asked = _Asked(connection, organization_id, query, position, horizon.sequence)
            by_way: dict[Aggregation, list[Meter]] = defaultdict(list)
            for meter in query.meters:
                by_way[Aggregation.SUM if meter.aggregation in ROLLED_UP else meter.aggregation].append(meter)
            rows: list[UsageRow] = []
            for aggregation, meters in by_way.items():
                await _refuse_dropped(asked, aggregation, _Values.of(meters))
                rows += await _WAYS[aggregation](asked, meters)
        rows.sort(key=lambda row: (row.meter, row.window.start_us or 0, row.group))
        return UsageAnswer(tuple(rows), position)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One query, within its transaction."""

    connection: AsyncConnection
    organization_id: str
    query: UsageQuery
    position: Position
    horizon: int
    """The last sequence whose raw event is gone, at most that of the position; 0: all are there."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the result's columns that hold the group."""
        return tuple(f"group_{number}" for number in range(len(self.query.group_by)))

    @property
    def names(self) -> dict[str, Any]:
        """The parameters that every statement of the query may use."""
        starts, ends = _bounds(self.query.windows)
        names: dict[str, Any] = {
            "organization_id": self.organization_id,
            "sequence": self.position.sequence,
            "horizon": self.horizon,
            "starts": starts,
            "ends": ends,
            "start": starts[0],
            "end": ends[-1],
            "open_end": self.query.windows[-1].end_us is None,
            "rows": limits.QUERY_ROWS_MAX + 1,
        }
        for number, each in enumerate(self.query.filters):
            names[f"filter_{number}"] = sorted(each.values)
            if isinstance(each.dimension, Label):
                names[f"filter_key_{number}"] = each.dimension.key
        for number, dimension in enumerate(self.query.group_by):
            if isinstance(dimension, Label):
                names[f"group_key_{number}"] = dimension.key
        return names

    @property
    def group_columns(self) -> str:
        """`, <value> AS group_0, ...` of an event or a rollup."""
        return "".join(
            f", {_dimension(dimension, f'group_key_{number}')} AS group_{number}"
            for number, dimension in enumerate(self.query.group_by)
        )

    @property
    def passes(self) -> str:
        """` AND ...` for each filter, on an event or a rollup."""
        return "".join(
            f" AND {_dimension(each.dimension, f'filter_key_{number}')} = ANY(CAST(:filter_{number} AS text[]))"
            for number, each in enumerate(self.query.filters)
        )

    @property
    def by(self) -> str:
        """`, group_0, ...` for a list of columns."""
        return "".join(f", {name}" for name in self.groups)

    async def rows(self, statement: str, names: Mapping[str, Any]) -> Sequence[Any]:
        return (await self.connection.execute(text(statement), {**self.names, **names})).all()

    def row(self, meter: Meter, found: Any, quantity: int) -> UsageRow:
        """The row of the answer for a row of a result with a window_number and the group's columns."""
        group = tuple(getattr(found, name) for name in self.groups)
        return UsageRow(meter.name, self.query.windows[found.window_number - 1], group, quantity)


def _dimension(dimension: Dimension, key_name: str) -> str:
    if isinstance(dimension, Label):
        return f"coalesce(labels ->> CAST(:{key_name} AS text), '')"
    return _COLUMNS[dimension]


def _moment(moment_us: int | None, otherwise: datetime) -> datetime:
    return otherwise if moment_us is None else from_unix_microseconds(moment_us)


def _bounds(windows: Sequence[Window]) -> tuple[list[datetime], list[datetime]]:
    return (
        [_moment(window.start_us, _BEGINNING) for window in windows],
        [_moment(window.end_us, _END) for window in windows],
    )


# ---- sums and counts -------------------------------------------------------------------------------------------------


async def measured_totals(
    connection: AsyncConnection, organization_id: str, window: Window, position: Position
) -> dict[str, int]:
    """The sum of every measurement up to a position, by name, within a transaction of reading_events: what a follower
    that adds up the entries comes to. Raises OutOfRetention.
    """
    if window.start_us == window.end_us is not None or not position.sequence:
        return {}
    horizon = await horizon_of(connection, organization_id)
    asked = _Asked(connection, organization_id, UsageQuery(meters=(), windows=(window,)), position, horizon.sequence)
    await _refuse_dropped(asked, Aggregation.SUM, _Values(measured=True))
    return {found.value_name: int(found.quantity) for found in await _summed(asked, _Values(measured=True))}


async def member_totals(
    connection: AsyncConnection,
    organization_id: str,
    window: Window,
    position: Position,
    wanted: LevelMeters,
    *,
    members_max: int,
) -> list[MemberTotal]:
    """The same of each member of a level, as far as it is not 0: per measurement the largest, one more than
    members_max of them when there are more than that. Raises OutOfRetention.
    """
    if window.start_us == window.end_us is not None or not position.sequence:
        return []
    query = UsageQuery(meters=(), windows=(window,), group_by=(wanted.level,))
    horizon = await horizon_of(connection, organization_id)
    asked = _Asked(connection, organization_id, query, position, horizon.sequence)
    values = _Values(measured=True, names=sorted(wanted.meters))
    await _refuse_dropped(asked, Aggregation.SUM, values)
    summed, names = await _summing(asked, values)
    statement = f"""
        SELECT value_name, group_0, quantity FROM (
            SELECT value_name, group_0, quantity,
                row_number() OVER (PARTITION BY value_name ORDER BY quantity DESC, group_0 COLLATE "C") AS place
            FROM ({summed}) AS summed WHERE group_0 <> '' AND quantity <> 0
        ) AS placed WHERE place <= :places
    """  # noqa: S608 - constants and columns of ours
    found = await asked.rows(statement, names | {"places": members_max + 1})
    return [MemberTotal(wanted.level, row.group_0, row.value_name, int(row.quantity)) for row in found]


async def _sums(asked: _Asked, meters: Sequence[Meter]) -> list[UsageRow]:
    """Sums and counts, from one statement for both."""
    by_value = _by_value(meters)
    return [
        asked.row(meter, found, int(found.quantity if meter.aggregation is Aggregation.SUM else found.event_count))
        for found in await _summed(asked, _Values.of(meters))
        for meter in by_value[found.value_name]
    ]


async def _summed(asked: _Asked, values: _Values) -> Sequence[Any]:
    """Per value, window and group the sum and how many events have it, reversals negated; of those that any has."""
    summed, names = await _summing(asked, values)
    return await asked.rows(f"{summed} HAVING sum(event_count) <> 0 LIMIT :rows", names)


async def _summing(asked: _Asked, values: _Values) -> tuple[str, dict[str, Any]]:
    """The statement of `_summed` up to its GROUP BY, and its parameters besides those of every statement."""
    names: dict[str, Any] = {"value_names": values.names}
    rolled = await _rolled(asked)
    if rolled is None:
        parts = [_event_part(asked, values, "sequence <= :sequence", ("start", "end"))]
    else:
        names["rolled_start"] = _moment(rolled.buckets.start_us, _BEGINNING)
        names["rolled_end"] = _moment(rolled.buckets.end_us, _END)
        # The rollups hold the entries up to a position of their own; those between it and the one asked for are added,
        # or taken away when it is the earlier one.
        names["after"], names["upto"] = sorted((rolled.sequence, asked.position.sequence))
        names["sign"] = 1 if rolled.sequence <= asked.position.sequence else -1
        between = "sequence > :after AND sequence <= :upto"
        parts = [
            _event_part(asked, values, "sequence <= :sequence", ("start", "rolled_start")),
            _event_part(asked, values, "sequence <= :sequence", ("rolled_end", "end")),
            _event_part(asked, values, between, ("rolled_start", "rolled_end"), sign=":sign"),
            *_rolled_parts(asked, values, rolled),
        ]
    statement = f"""
        SELECT value_name, window_number{asked.by}, sum(quantity) AS quantity, sum(event_count) AS event_count
        FROM ({" UNION ALL ".join(parts)}) AS part
        GROUP BY value_name, window_number{asked.by}
    """  # noqa: S608 - constants and columns of ours
    return statement, names


@dataclass(frozen=True, slots=True)
class _Rolled:
    """What rollups hold of a query."""

    buckets: Window
    prefix: str
    """Of the names of the tables."""
    rows: str
    """The condition on their rows."""
    sequence: int
    """The entries up to this one."""


async def _rolled(asked: _Asked) -> _Rolled | None:
    """What to begin from: rollups, sealed totals when raw events are gone, else nothing."""
    query = asked.query
    dimensions = {*query.group_by, *(each.dimension for each in query.filters)}
    buckets = whole_buckets(query.windows)
    if buckets is None or not can_be_rolled_up_by(dimensions):
        return None
    prefix = "subject_" if dimensions else ""
    names = {"organization_id": asked.organization_id}
    sequence = (await asked.connection.execute(_ROLLED_SEQUENCE, names)).scalar() or 0
    # Beyond twice the sequence asked for, taking away what came later costs more than adding up what is wanted.
    if sequence and asked.horizon <= sequence <= 2 * asked.position.sequence:
        return _Rolled(buckets, f"{prefix}rollup", "true", sequence)
    # Rollups may be gone, or on their way back: what was sealed is there.
    if asked.horizon:
        return _Rolled(buckets, f"{prefix}sealed", "sequence <= :horizon", asked.horizon)
    return None


async def _refuse_dropped(asked: _Asked, aggregation: Aggregation, values: _Values) -> None:
    """Raises OutOfRetention when an entry that may count for the answer is gone, and no sum of buckets replaces it."""
    if not asked.horizon:
        return
    # Rows of sums say of which values anything is gone; which ids it named, nobody knows.
    found = [
        f"EXISTS (SELECT FROM metering.sealed_{table} WHERE {_OVERLAPS_BUCKET}{wanted})"
        for table, wanted, is_read in (
            ("measurements", f" AND {values.are('measurement')}", values.measured),
            ("calls", "", values.called),
        )
        if is_read
    ]
    if aggregation is Aggregation.UNIQUE_COUNT:
        found = [f"EXISTS (SELECT FROM metering.sealed_spans WHERE {_OVERLAPS_SPAN})"]
    for window in raw_windows(asked.query, aggregation):
        names = {
            "value_names": values.names,
            "raw_start": _moment(window.start_us, _BEGINNING),
            "raw_end": _moment(window.end_us, _END),
            "bucket": BUCKET,
        }
        for (is_gone,) in await asked.rows(f"SELECT {' OR '.join(found)}", names):
            if is_gone:
                raise refuse_finer()


def _event_part(asked: _Asked, values: _Values, sequences: str, bounds: tuple[str, str], *, sign: str = "1") -> str:
    """The events with these sequences, between two named moments."""
    start, end = bounds
    return f"""
        SELECT value_name, window_number{asked.by}, sum(value) * CAST({sign} AS bigint) AS quantity,
            sum(direction) * CAST({sign} AS bigint) AS event_count
        FROM (
            SELECT measurements, provider_call, CASE WHEN reversal_of_id IS NULL THEN 1 ELSE -1 END AS direction,
                {_WINDOW_OF_EVENT} AS window_number{asked.group_columns}
            FROM metering.events
            WHERE organization_id = :organization_id AND {sequences}
              AND event_time >= :{start} AND event_time < :{end}{asked.passes}
        ) AS entry CROSS JOIN LATERAL {values.of_entry}
        GROUP BY value_name, window_number{asked.by}
    """  # noqa: S608 - constants and columns of ours


def _rolled_parts(asked: _Asked, values: _Values, rolled: _Rolled) -> list[str]:
    window = "width_bucket(bucket_start, CAST(:starts AS timestamptz[])) AS window_number"
    buckets = f"""organization_id = :organization_id
        AND bucket_start >= :rolled_start AND bucket_start < :rolled_end AND {rolled.rows}{asked.passes}"""
    measurements = f"""
        SELECT measurement AS value_name, {window}{asked.group_columns},
            sum(quantity) AS quantity, sum(event_count) AS event_count
        FROM metering.{rolled.prefix}_measurements
        WHERE {buckets} AND {values.are("measurement")}
        GROUP BY value_name, window_number{asked.by}
    """  # noqa: S608 - constants and columns of ours
    rows = ", ".join(f"('{each.name}', {each.quantity_column}, {each.count_column})" for each in CALL_VALUES)
    calls = f"""
        SELECT value_name, window_number{asked.by}, quantity, event_count
        FROM (
            SELECT {window}{asked.group_columns}, {", ".join(f"sum({column}) AS {column}" for column in CALL_COLUMNS)}
            FROM metering.{rolled.prefix}_calls WHERE {buckets} GROUP BY window_number{asked.by}
        ) AS summed CROSS JOIN LATERAL (VALUES {rows}) AS value (value_name, quantity, event_count)
        WHERE {values.are("value_name")}
    """  # noqa: S608 - constants and columns of ours
    return [part for part, kind in ((measurements, values.measured), (calls, values.called)) if kind]


def _by_value(meters: Sequence[Meter]) -> Mapping[str, Sequence[Meter]]:
    by_value: dict[str, list[Meter]] = defaultdict(list)
    for meter in meters:
        by_value[value_name(meter)].append(meter)
    return by_value


@dataclass(frozen=True, slots=True)
class _Values:
    """Which values of an event are read."""

    measured: bool = False
    called: bool = False
    names: Sequence[str] | None = None
    """None: every one."""

    @classmethod
    def of(cls, meters: Sequence[Meter]) -> _Values:
        kinds = set(map(is_measured, meters))
        return cls(measured=True in kinds, called=False in kinds, names=sorted({value_name(meter) for meter in meters}))

    def are(self, column: str) -> str:
        """The condition that a column names one of them."""
        return "true" if self.names is None else f"{column} = ANY(CAST(:value_names AS text[]))"

    @property
    def of_entry(self) -> str:
        """Rows (value_name, value) of an entry with measurements, provider_call and direction."""
        measured = "SELECT key AS value_name, CAST(value AS bigint) AS value FROM jsonb_each_text(measurements)"
        rows = ", ".join(f"('{each.name}', {each.of_event})" for each in CALL_VALUES)
        called = f"""
            SELECT value_name, value FROM (VALUES {rows}) AS field (value_name, value)
            WHERE provider_call IS NOT NULL AND value IS NOT NULL"""  # noqa: S608 - constants of ours
        known = " UNION ALL ".join(part for part, kind in ((measured, self.measured), (called, self.called)) if kind)
        wanted = self.are("value_name")
        return f"(SELECT value_name, value FROM ({known}) AS known WHERE {wanted}) AS counted"  # noqa: S608 - ours


# ---- maxima, latest values, different values -------------------------------------------------------------------------


async def _maxima(asked: _Asked, meters: Sequence[Meter]) -> list[UsageRow]:
    select = f"SELECT value_name, window_number{asked.by}, max(value) AS quantity"
    return await _per_value(asked, meters, select, f"GROUP BY value_name, window_number{asked.by}")


async def _latest(asked: _Asked, meters: Sequence[Meter]) -> list[UsageRow]:
    key = f"value_name, window_number{asked.by}"
    select = f"SELECT DISTINCT ON ({key}) {key}, value AS quantity"
    return await _per_value(
        asked, meters, select, f"ORDER BY {key}, event_time DESC, event_time_nanos DESC, sequence DESC"
    )


async def _per_value(asked: _Asked, meters: Sequence[Meter], select: str, grouped: str) -> list[UsageRow]:
    by_value = _by_value(meters)
    statement = f"""
        {select} FROM (
            SELECT *, {_WINDOW_OF_EVENT} AS window_number{asked.group_columns}, 1 AS direction
            FROM metering.events AS event
            WHERE {_STANDING} AND event_time >= :start AND event_time < :end{asked.passes}
        ) AS entry CROSS JOIN LATERAL {_Values.of(meters).of_entry}
        {grouped} LIMIT :rows
    """  # noqa: S608 - constants and columns of ours
    return [
        asked.row(meter, found, int(found.quantity))
        for found in await asked.rows(statement, {"value_names": list(by_value)})
        for meter in by_value[found.value_name]
    ]


async def _unique_counts(asked: _Asked, meters: Sequence[Meter]) -> list[UsageRow]:
    rows: list[UsageRow] = []
    for meter in meters:
        names: dict[str, Any] = {}
        if isinstance(meter.dimension, Label):
            names["counted_key"] = meter.dimension.key
        counted = "NULL" if meter.dimension is None else _dimension(meter.dimension, "counted_key")
        statement = f"""
            SELECT window_number{asked.by}, count(DISTINCT counted) AS quantity FROM (
                SELECT {_WINDOW_OF_EVENT} AS window_number, nullif({counted}, '') AS counted{asked.group_columns}
                FROM metering.events AS event
                WHERE {_STANDING} AND event_time >= :start AND event_time < :end{asked.passes}
            ) AS entry
            WHERE counted IS NOT NULL GROUP BY window_number{asked.by} LIMIT :rows
        """  # noqa: S608 - constants and columns of ours
        rows += [asked.row(meter, found, found.quantity) for found in await asked.rows(statement, names)]
    return rows


# ---- time-weighted sums ----------------------------------------------------------------------------------------------


async def _time_weighted(asked: _Asked, meters: Sequence[Meter]) -> list[UsageRow]:
    by_value = _by_value(meters)
    # Events from before the interval are read too: the last of each series holds into it.
    statement = f"""
        SELECT value_name, window_number{asked.by}, div(sum(value * microseconds), 1000) AS quantity
        FROM (
            SELECT value_name, value{asked.by}, event_time AS since,
                lead(event_time, 1, CASE WHEN CAST(:open_end AS boolean) THEN NULL ELSE CAST(:end AS timestamptz) END)
                    OVER (PARTITION BY value_name, {_SERIES} ORDER BY event_time, event_time_nanos, sequence) AS until
            FROM (
                SELECT *, 1 AS direction{asked.group_columns} FROM metering.events AS event
                WHERE {_STANDING} AND event_time < :end{asked.passes}
            ) AS entry CROSS JOIN LATERAL {_Values.of(meters).of_entry}
        ) AS held
        JOIN unnest(CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[])) WITH ORDINALITY
            AS piece (piece_start, piece_end, window_number) ON since < piece_end AND until > piece_start
        CROSS JOIN LATERAL (
            SELECT CAST(extract(epoch FROM least(until, piece_end) - greatest(since, piece_start)) * 1000000 AS numeric)
                AS microseconds) AS overlap
        GROUP BY value_name, window_number{asked.by}
        HAVING sum(value * microseconds) >= 1000 LIMIT :rows
    """  # noqa: S608 - constants and columns of ours
    return [
        asked.row(meter, found, int(found.quantity))
        for found in await asked.rows(statement, {"value_names": list(by_value)})
        for meter in by_value[found.value_name]
    ]


_WAYS = {
    Aggregation.SUM: _sums,
    Aggregation.MAX: _maxima,
    Aggregation.LATEST: _latest,
    Aggregation.UNIQUE_COUNT: _unique_counts,
    Aggregation.TIME_WEIGHTED_SUM: _time_weighted,
}

# The windows tile the interval, so the number of a window is how many begin at or before the event.
_WINDOW_OF_EVENT = "width_bucket(event_time, CAST(:starts AS timestamptz[]))"
# What counts for aggregations that cannot subtract: neither a reversal nor, by then, reversed.
_STANDING = """organization_id = :organization_id AND sequence <= :sequence AND reversal_of_id IS NULL
    AND NOT EXISTS (
        SELECT FROM metering.reversals
        WHERE reversals.organization_id = :organization_id AND reversals.target_sequence = event.sequence
          AND reversals.sequence <= :sequence)"""
_SERIES = "project_id, team_id, user_id, agent_id, task_id, session_id, coalesce(labels, '{}')"
# Not start - bucket < ..., which could be before what a timestamp can name.
_OVERLAPS_BUCKET = """organization_id = :organization_id AND sequence <= :horizon
    AND bucket_start < :raw_end AND bucket_start + CAST(:bucket AS interval) > :raw_start"""
_OVERLAPS_SPAN = """organization_id = :organization_id AND sequence <= :horizon
    AND first_event_time < :raw_end AND last_event_time >= :raw_start"""
_ROLLED_SEQUENCE = text("SELECT sequence FROM metering.rollup_positions WHERE organization_id = :organization_id")
