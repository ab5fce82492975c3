"""Priced calls in Postgres; see migrations/0001_costs.py for who may see what.

The row of cost_positions is what the writers of one organization take turns on: every write first locks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from kit.feed import Position
from kit.postgres.arrays import flag_array, number_array, text_array, time_array
from kit.postgres.database import Database
from services.analytics.application.ports import CostTotals
from services.analytics.domain.calls import ProviderCall
from services.analytics.domain.days import Interval
from services.analytics.domain.pricing import Costs, RatedCall
from services.analytics.domain.summary import ProviderTotal


class PostgresCostWriter:
    """CostWriter as the writer role."""

    def __init__(self, writer: Database) -> None:
        self._writer = writer

    async def position(self, organization_id: str) -> Position | None:
        """As CostWriter."""
        async with self._writer.transaction(organization_id=organization_id) as connection:
            names = {"organization_id": organization_id}
            row = (await connection.execute(_POSITION, names)).one_or_none()
            return Position(row.sequence, row.commit_id) if row else None

    async def begin(self, organization_id: str, *, price_version: int) -> None:
        """As CostWriter."""
        async with self._writer.transaction(organization_id=organization_id) as connection:
            names = {"organization_id": organization_id, "price_version": price_version}
            await connection.execute(_BEGIN, names)

    async def append(
        self,
        organization_id: str,
        after: Position,
        upto: Position,
        calls: Sequence[RatedCall],
        *,
        price_version: int,
    ) -> bool:
        """As CostWriter."""
        async with self._writer.transaction(organization_id=organization_id) as connection:
            names = _move(organization_id, after, upto) | {"price_version": price_version}
            if not (await connection.execute(_MOVE, names)).rowcount:
                return False
            if calls:
                await connection.execute(_APPEND, {"organization_id": organization_id} | _call_columns(calls))
            return True

    async def restart(self, organization_id: str, at: Position, *, price_version: int) -> bool:
        """As CostWriter."""
        async with self._writer.transaction(organization_id=organization_id) as connection:
            # All of a large organization's rows go at once, or half of them would be counted meanwhile.
            await connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_RESTART_TIMEOUT}'")
            names = _move(organization_id, at, Position(0, "")) | {"price_version": price_version}
            if not (await connection.execute(_RESTART, names)).rowcount:
                return False
            await connection.execute(_FORGET, {"organization_id": organization_id})
            return True


class PostgresCostRerater:
    """CostRerater: finds organizations as the fleet role, reads and writes one of them as the writer role."""

    def __init__(self, writer: Database, fleet: Database) -> None:
        self._writer = writer
        self._fleet = fleet

    async def organizations_before(self, price_version: int) -> Sequence[str]:
        """As CostRerater."""
        async with self._fleet.transaction() as connection:
            rows = await connection.execute(_ORGANIZATIONS_BEFORE, {"price_version": price_version})
            return rows.scalars().all()

    async def price_version(self, organization_id: str) -> int | None:
        """As CostRerater."""
        async with self._writer.transaction(organization_id=organization_id) as connection:
            names = {"organization_id": organization_id}
            row = (await connection.execute(_POSITION, names)).one_or_none()
            return row.price_version if row else None

    async def calls_before(
        self, organization_id: str, price_version: int, *, since: datetime, after_sequence: int, count: int
    ) -> Sequence[RatedCall]:
        """As CostRerater."""
        async with self._writer.transaction(organization_id=organization_id) as connection:
            names = {
                "organization_id": organization_id,
                "price_version": price_version,
                "since": since,
                "after": after_sequence,
                "count": count,
            }
            return [_rated_from_row(row) for row in await connection.execute(_CALLS_BEFORE, names)]

    async def replace_costs(self, organization_id: str, calls: Sequence[RatedCall], *, price_version: int) -> bool:
        """As CostRerater."""
        async with self._writer.transaction(organization_id=organization_id) as connection:
            await connection.execute(_LOCK_POSITION, {"organization_id": organization_id})
            # Shared with other re-ratings, it keeps new prices out until this commits: an earlier table's costs never
            # overwrite a later one's.
            if (await connection.execute(_SHARE_PRICE_VERSION)).scalar_one() != price_version:
                return False
            await connection.execute(_REPLACE, {"organization_id": organization_id} | _cost_columns(calls))
            return True

    async def finish_rerating(
        self, organization_id: str, *, from_version: int, to_version: int, since: datetime, upto_sequence: int
    ) -> bool:
        """As CostRerater."""
        async with self._writer.transaction(organization_id=organization_id) as connection:
            names = {"organization_id": organization_id}
            row = (await connection.execute(_LOCK_POSITION, names)).one_or_none()
            if row is None or row.price_version != from_version:
                return False
            # A statement of its own, after the lock: it sees what was appended while this waited.
            names_left = names | {
                "price_version": to_version,
                "since": since,
                "after": upto_sequence,
                "count": 1,
            }
            if (await connection.execute(_CALLS_BEFORE, names_left)).first() is not None:
                return False
            await connection.execute(_FINISH, names | {"price_version": to_version})
            return True


class PostgresCostReader:
    """CostReader as the tenant role."""

    def __init__(self, tenant: Database) -> None:
        self._tenant = tenant

    async def totals(self, organization_id: str, interval: Interval) -> CostTotals:
        """As CostReader."""
        names = {"organization_id": organization_id, "start": interval.start, "end": interval.end}
        async with self._tenant.transaction(organization_id=organization_id, snapshot=True) as connection:
            row = (await connection.execute(_POSITION, {"organization_id": organization_id})).one_or_none()
            totals = tuple(_total_from_row(row) for row in await connection.execute(_TOTALS, names))
            return CostTotals(totals, applied_sequence=row.sequence if row else 0)


def _move(organization_id: str, before: Position, after: Position) -> dict[str, Any]:
    return {
        "organization_id": organization_id,
        "before_sequence": before.sequence,
        "before_commit_id": before.commit_id,
        "sequence": after.sequence,
        "commit_id": after.commit_id,
    }


def _call_columns(rated: Sequence[RatedCall]) -> dict[str, str]:
    calls = [each.call for each in rated]
    return {
        "event_times": time_array([call.event_time for call in calls]),
        "providers": text_array([call.provider for call in calls]),
        "models": text_array([call.model for call in calls]),
        "project_ids": text_array([call.project_id for call in calls]),
        "team_ids": text_array([call.team_id for call in calls]),
        "user_ids": text_array([call.user_id for call in calls]),
        "agent_ids": text_array([call.agent_id for call in calls]),
        "task_ids": text_array([call.task_id for call in calls]),
        "tokens_input_uncached": number_array([call.tokens_input_uncached for call in calls]),
        "tokens_cache_read": number_array([call.tokens_cache_read for call in calls]),
        "tokens_cache_write": number_array([call.tokens_cache_write for call in calls]),
        "tokens_output": number_array([call.tokens_output for call in calls]),
        "tokens_reasoning": number_array([call.tokens_reasoning for call in calls]),
        "call_counts": number_array([call.call_count for call in calls]),
        **_cost_columns(rated),
    }


def _cost_columns(rated: Sequence[RatedCall]) -> dict[str, str]:
    costs = [each.costs for each in rated]
    return {
        "sequences": number_array([each.sequence for each in rated]),
        "costs": number_array([cost.cost_femto_usd for cost in costs]),
        "baselines": number_array([cost.baseline_femto_usd for cost in costs]),
        "fallbacks": flag_array([cost.is_fallback for cost in costs]),
        "baseline_fallbacks": flag_array([cost.baseline_is_fallback for cost in costs]),
        "price_versions": number_array([each.price_version for each in rated]),
    }


def _rated_from_row(row: Row[Any]) -> RatedCall:
    return RatedCall(
        row.sequence,
        ProviderCall(
            event_time=row.event_time,
            provider=row.provider,
            model=row.model,
            project_id=row.project_id,
            team_id=row.team_id,
            user_id=row.user_id,
            agent_id=row.agent_id,
            task_id=row.task_id,
            tokens_input_uncached=row.tokens_input_uncached,
            tokens_cache_read=row.tokens_cache_read,
            tokens_cache_write=row.tokens_cache_write,
            tokens_output=row.tokens_output,
            tokens_reasoning=row.tokens_reasoning,
            call_count=row.call_count,
        ),
        Costs(
            cost_femto_usd=int(row.cost_femto_usd),
            baseline_femto_usd=int(row.baseline_femto_usd),
            is_fallback=row.is_fallback,
            baseline_is_fallback=row.baseline_is_fallback,
        ),
        row.price_version,
    )


def _total_from_row(row: Row[Any]) -> ProviderTotal:
    return ProviderTotal(
        provider=row.provider,
        cost_femto_usd=int(row.cost_femto_usd),
        baseline_femto_usd=int(row.baseline_femto_usd),
        call_count=row.call_count,
    )


_RESTART_TIMEOUT = "10min"

_POSITION = text("""
    SELECT sequence, commit_id, price_version FROM analytics.cost_positions
    WHERE organization_id = :organization_id
""")
_LOCK_POSITION = text("""
    SELECT sequence, commit_id, price_version FROM analytics.cost_positions
    WHERE organization_id = :organization_id FOR UPDATE
""")
_BEGIN = text("""
    INSERT INTO analytics.cost_positions (organization_id, sequence, commit_id, price_version)
    VALUES (:organization_id, 0, '', :price_version) ON CONFLICT (organization_id) DO NOTHING
""")
# The comparison and the move are one statement: of two followers at the same position one finds no row.
_MOVE = text("""
    UPDATE analytics.cost_positions SET sequence = :sequence, commit_id = :commit_id
    WHERE organization_id = :organization_id AND sequence = :before_sequence AND commit_id = :before_commit_id
      AND price_version <= :price_version
""")
_RESTART = text("""
    UPDATE analytics.cost_positions
    SET sequence = :sequence, commit_id = :commit_id, price_version = :price_version
    WHERE organization_id = :organization_id AND sequence = :before_sequence AND commit_id = :before_commit_id
""")
_FORGET = text("DELETE FROM analytics.call_costs WHERE organization_id = :organization_id")
_FINISH = text("""
    UPDATE analytics.cost_positions SET price_version = :price_version WHERE organization_id = :organization_id
""")
_ORGANIZATIONS_BEFORE = text("""
    SELECT organization_id FROM analytics.cost_positions
    WHERE price_version < :price_version ORDER BY organization_id
""")
_APPEND = text("""
    INSERT INTO analytics.call_costs (
        organization_id, sequence, event_time, provider, model, project_id, team_id, user_id, agent_id, task_id,
        tokens_input_uncached, tokens_cache_read, tokens_cache_write, tokens_output, tokens_reasoning, call_count,
        cost_femto_usd, baseline_femto_usd, is_fallback, baseline_is_fallback, price_version)
    SELECT :organization_id, fresh.*
    FROM unnest(
        CAST(:sequences AS bigint[]), CAST(:event_times AS timestamptz[]), CAST(:providers AS text[]),
        CAST(:models AS text[]), CAST(:project_ids AS text[]), CAST(:team_ids AS text[]), CAST(:user_ids AS text[]),
        CAST(:agent_ids AS text[]), CAST(:task_ids AS text[]), CAST(:tokens_input_uncached AS bigint[]),
        CAST(:tokens_cache_read AS bigint[]), CAST(:tokens_cache_write AS bigint[]), CAST(:tokens_output AS bigint[]),
        CAST(:tokens_reasoning AS bigint[]), CAST(:call_counts AS smallint[]),
        CAST(:costs AS numeric[]), CAST(:baselines AS numeric[]),
        CAST(:fallbacks AS boolean[]), CAST(:baseline_fallbacks AS boolean[]), CAST(:price_versions AS bigint[]))
        AS fresh
""")
_CALLS_BEFORE = text("""
    SELECT sequence, event_time, provider, model, project_id, team_id, user_id, agent_id, task_id,
        tokens_input_uncached, tokens_cache_read, tokens_cache_write, tokens_output, tokens_reasoning, call_count,
        cost_femto_usd, baseline_femto_usd, is_fallback, baseline_is_fallback, price_version
    FROM analytics.call_costs
    WHERE organization_id = :organization_id AND sequence > :after AND event_time >= :since
      AND price_version < :price_version
    ORDER BY sequence LIMIT :count
""")
_SHARE_PRICE_VERSION = text("SELECT version FROM analytics.price_head FOR SHARE")
_REPLACE = text("""
    UPDATE analytics.call_costs
    SET cost_femto_usd = fresh.cost, baseline_femto_usd = fresh.baseline, is_fallback = fresh.is_fallback,
        baseline_is_fallback = fresh.baseline_is_fallback, price_version = fresh.price_version
    FROM unnest(
        CAST(:sequences AS bigint[]), CAST(:costs AS numeric[]), CAST(:baselines AS numeric[]),
        CAST(:fallbacks AS boolean[]), CAST(:baseline_fallbacks AS boolean[]), CAST(:price_versions AS bigint[]))
        AS fresh (sequence, cost, baseline, is_fallback, baseline_is_fallback, price_version)
    WHERE call_costs.organization_id = :organization_id AND call_costs.sequence = fresh.sequence
""")
_TOTALS = text("""
    SELECT provider, sum(cost_femto_usd) AS cost_femto_usd, sum(baseline_femto_usd) AS baseline_femto_usd,
        sum(call_count) AS call_count
    FROM analytics.call_costs
    WHERE organization_id = :organization_id AND event_time >= :start AND event_time < :end
    GROUP BY provider HAVING sum(call_count) <> 0 ORDER BY provider
""")
