"""Rollups as they lie in the database."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

TABLES = ("rollup_measurements", "rollup_calls", "subject_rollup_measurements", "subject_rollup_calls")


def rollup_rows(owner: psycopg.Connection, organization_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of an organization, as text to the byte, by table and in the order of its key."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for table in TABLES:
        name = sql.Identifier("metering", table)
        query = sql.SQL("SELECT CAST({} AS text) FROM {} WHERE organization_id = %s ORDER BY 1").format(
            sql.Identifier(table), name
        )
        rows[table] = owner.execute(query, (organization_id,)).fetchall()
    return rows
