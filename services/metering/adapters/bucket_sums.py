"""A span of entries, added up by bucket: what rollups are made of, and sealed totals alike.

A row adds up the entries whose event_time is in its bucket: one measurement, or all fields of provider calls; in one
table for the whole organization, in another by subject.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Protocol

from services.metering.adapters.usage_values import CALL_COLUMNS
from services.metering.domain.rollups import BUCKET_US

BUCKET = timedelta(microseconds=BUCKET_US)
"""The parameter `bucket` of the statements."""

SUBJECT = ("project_id", "team_id", "user_id", "agent_id")
_MEASURED = ("quantity", "event_count")
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "subject_{kind}_measurements": (("measurement", "bucket_start", *SUBJECT), _MEASURED),
    "subject_{kind}_calls": (("bucket_start", *SUBJECT), tuple(CALL_COLUMNS)),
    "{kind}_measurements": (("measurement", "bucket_start"), _MEASURED),
    "{kind}_calls": (("bucket_start",), tuple(CALL_COLUMNS)),
}
"""The keys and the sums of each table, by its name; the kind is `rollup` or `sealed`."""


class Keep(Protocol):
    """The statement that keeps rows of one table."""

    def __call__(self, table: str, keys: tuple[str, ...], sums: tuple[str, ...], rows: str) -> str:
        """rows: a SELECT of keys, then sums."""
        ...


def adding_up_a_span(kind: str, keep: Keep) -> str:
    """The statement that adds up the entries of `organization_id` after the sequence `after` up to `upto`, in one pass
    over them, and keeps the sums. Totals by subject come first, and those of the organization from them.
    """
    rows = {
        "subject_{kind}_measurements": "SELECT * FROM measured",
        "subject_{kind}_calls": "SELECT * FROM called",
        "{kind}_measurements": _summed(*TABLES["{kind}_measurements"], "measured"),
        "{kind}_calls": _summed(*TABLES["{kind}_calls"], "called"),
    }
    *first, last = (keep(name.format(kind=kind), *TABLES[name], rows[name]) for name in TABLES)
    kept = ", ".join(f"kept_{number} AS ({statement})" for number, statement in enumerate(first))
    subject, call_sums = (
        ", ".join(SUBJECT),
        ", ".join(f"sum({value}) AS {name}" for name, value in CALL_COLUMNS.items()),
    )
    return f"""
        WITH entry AS MATERIALIZED (
            SELECT date_bin(CAST(:bucket AS interval), event_time, TIMESTAMPTZ '1970-01-01 00:00:00+00')
                    AS bucket_start,
                {subject}, measurements, provider_call,
                CASE WHEN reversal_of_id IS NULL THEN 1 ELSE -1 END AS direction
            FROM metering.events
            WHERE organization_id = :organization_id AND sequence > :after AND sequence <= :upto),
        measured AS MATERIALIZED (
            SELECT key AS measurement, bucket_start, {subject},
                sum(CAST(value AS bigint)) AS quantity, sum(direction) AS event_count
            FROM entry CROSS JOIN LATERAL jsonb_each_text(measurements) GROUP BY key, bucket_start, {subject}),
        called AS MATERIALIZED (
            SELECT bucket_start, {subject}, {call_sums}
            FROM entry WHERE provider_call IS NOT NULL GROUP BY bucket_start, {subject}),
        {kept}
        {last}
    """  # noqa: S608 - constants of ours


def _summed(keys: Iterable[str], sums: Iterable[str], rows: str) -> str:
    by, added = ", ".join(keys), ", ".join(f"sum({name})" for name in sums)
    return f"SELECT {by}, {added} FROM {rows} GROUP BY {by}"  # noqa: S608 - constants of ours
