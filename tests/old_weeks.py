"""Weeks of raw events that are long past, made by the owner of the schema, for tests of retention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import psycopg
from psycopg import sql

WEEK = timedelta(days=7)
_TODAY = datetime.now(UTC).date()
OLD = _TODAY - timedelta(days=_TODAY.weekday()) - 30 * WEEK
"""A Monday of half a year ago."""


def moment(week: date = OLD, **later: float) -> datetime:
    """A moment in a week: `moment(hours=3)` after its beginning."""
    return datetime(week.year, week.month, week.day, tzinfo=UTC) + timedelta(**later)


@contextmanager
def old_weeks(owner_url: str, *weeks: date) -> Iterator[psycopg.Connection]:
    """The weeks as partitions of the ledger; in the end nothing is left of them. Yields the owner's connection."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        _clear(owner)
        for week in weeks:
            owner.execute("SELECT metering.make_event_partition(%s)", (week,))
        try:
            yield owner
        finally:
            _clear(owner)


def _clear(owner: psycopg.Connection) -> None:
    before = _TODAY - timedelta(days=35)
    for (week,) in owner.execute("SELECT week FROM metering.event_weeks WHERE week < %s", (before,)).fetchall():
        owner.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("metering", f"events_{week:%Y%m%d}")))
    owner.execute("DELETE FROM metering.archived_weeks")
    # Whole organizations: what is left of one would be no ledger.
    owner.execute("""
        WITH gone AS (DELETE FROM metering.sealed_spans RETURNING organization_id)
        DELETE FROM metering.ledger_heads WHERE organization_id IN (SELECT organization_id FROM gone)
    """)
