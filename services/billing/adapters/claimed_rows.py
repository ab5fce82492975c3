"""Rows of a narrow list that workers claim, as the fleet role: how every plain list of work is claimed.

Work is claimed by moving its time past the lease, in one statement that skips what another claimer holds; no
transaction stays open while the work is done. A claimer that dies loses its claim when the lease ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from kit.postgres.database import Database
from services.billing.domain import limits


class ClaimedRows:
    """One such list: a table of `billing` with these keys, attempt_count, next_attempt_time and last_error.

    parks: it has parked_reason as well, and what is parked is not claimed.
    """

    def __init__(self, fleet: Database, table: str, *keys: str, parks: bool = False) -> None:
        self._fleet = fleet
        names = ", ".join(keys)
        claimed = ", ".join(f"due.{column}" for column in (*keys, "attempt_count"))
        of_chosen = " AND ".join(f"due.{key} = chosen.{key}" for key in keys)
        # A claim that has passed to somebody else has another attempt_count: what its former holder says no longer
        # counts.
        of_claim = " AND ".join(f"{key} = :{key}" for key in (*keys, "attempt_count"))
        is_open = "parked_reason = '' AND " if parks else ""
        # Tables and keys are named by the modules beside this one, never by a caller.
        self._claim = text(f"""
            WITH chosen AS MATERIALIZED (
                SELECT {names} FROM billing.{table} WHERE {is_open}next_attempt_time <= :now
                ORDER BY next_attempt_time LIMIT :count FOR UPDATE SKIP LOCKED)
            UPDATE billing.{table} AS due SET next_attempt_time = :until, attempt_count = due.attempt_count + 1
            FROM chosen WHERE {of_chosen} RETURNING {claimed}
        """)  # noqa: S608
        self._retry = text(
            f"UPDATE billing.{table} SET next_attempt_time = :at, last_error = :error WHERE {of_claim}"  # noqa: S608
        )
        self._park = text(f"UPDATE billing.{table} SET parked_reason = :reason WHERE {of_claim}")  # noqa: S608

    async def claim(self, *, now: datetime, count: int) -> Sequence[Row[Any]]:
        """Claims up to `count` rows that are due, the longest due first, each for the lease."""
        names = {"now": now, "until": now + limits.CLAIM_LEASE, "count": count}
        async with self._fleet.transaction() as connection:
            return (await connection.execute(self._claim, names)).all()

    async def retry(self, *, at: datetime, error: str, attempt_count: int, **keys: str) -> None:
        """Makes a claimed row due again at a time."""
        names = {**keys, "attempt_count": attempt_count, "at": at, "error": error}
        async with self._fleet.transaction() as connection:
            await connection.execute(self._retry, names)

    async def park(self, *, reason: str, attempt_count: int, **keys: str) -> None:
        """Sets a claimed row aside."""
        async with self._fleet.transaction() as connection:
            await connection.execute(self._park, {**keys, "attempt_count": attempt_count, "reason": reason})
