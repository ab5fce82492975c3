"""Organizations' own limits in Postgres, the only record that quota keeps; see migrations/0001_limits.py."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import NotFound, RequestIdReused
from kit.feed import START, Head, Page, Position
from kit.head_watch import HeadWatch, Look
from kit.postgres.change_log import ChangeLog
from kit.postgres.database import Database
from services.quota.application.ports import ChangeRequest
from services.quota.domain.limits import (
    Limit,
    LimitKind,
    LimitScope,
    ScopeKind,
    UnavailablePolicy,
    Window,
    WindowStyle,
)
from services.quota.domain.maxima import (
    REQUESTS_FORGOTTEN_AT_ONCE_MAX,
    REQUESTS_REMEMBERED_DAYS,
    REQUESTS_REMEMBERED_MAX,
)
from services.quota.domain.own_limits import require_room
from services.quota.domain.terms import OwnLimits

# Whoever changes a limit puts it in force; following is for when that failed.
WATCH_EVERY_SECONDS = 1.0

_CHANGES = ChangeLog("quota")


class PostgresLimits:
    """LimitRecord as the tenant role."""

    def __init__(self, tenant: Database) -> None:
        self._tenant = tenant

    async def own_limits(self, organization_id: str) -> OwnLimits:
        """As LimitRecord."""
        async with self._tenant.transaction(organization_id=organization_id, snapshot=True) as connection:
            position = await _head(connection, organization_id)
            limits = await _limits(connection, organization_id)
        return OwnLimits(
            organization_id=organization_id,
            sequence=position.sequence,
            commit_id=position.commit_id,
            limits=tuple(limits[limit_id] for limit_id in sorted(limits)),
        )

    async def set(self, organization_id: str, limit: Limit, request: ChangeRequest) -> Limit:
        """As LimitRecord."""
        values = _values(limit)
        async with self._tenant.transaction(organization_id=organization_id) as connection:
            if not await _is_first(connection, organization_id, request, limit_values=values):
                return await _first_answer(connection, organization_id, request) or limit
            before = await _change(connection, organization_id, request, limit_id=limit.limit_id, after=values)
            require_room({**before, limit.limit_id: limit}.values())
            await connection.execute(_SET, {"organization_id": organization_id, **values})
        return limit

    async def delete(self, organization_id: str, limit_id: str, request: ChangeRequest) -> None:
        """As LimitRecord."""
        async with self._tenant.transaction(organization_id=organization_id) as connection:
            if not await _is_first(connection, organization_id, request, limit_values=None):
                await _first_answer(connection, organization_id, request)
                return
            before = await _change(connection, organization_id, request, limit_id=limit_id, after=None)
            if limit_id not in before:
                raise NotFound(what="limit", name=limit_id)
            await connection.execute(_DELETE, {"organization_id": organization_id, "limit_id": limit_id})


class PostgresLimitChanges:
    """kit.feed.Feed of the service's own changes: the limits as of the head, for those between are history."""

    def __init__(self, tenant: Database, fleet: Database, limits: PostgresLimits) -> None:
        self._tenant = tenant
        self._fleet = fleet
        self._limits = limits
        self._heads = HeadWatch(self._look, every_seconds=WATCH_EVERY_SECONDS)

    async def watch(self) -> AsyncIterator[Sequence[Head]]:
        """As Feed."""
        async for heads in self._heads.watch():
            yield heads

    async def read(self, key: str, after: Position) -> AsyncIterator[Page[OwnLimits]]:
        """As Feed."""
        async with self._tenant.transaction(organization_id=key, snapshot=True) as connection:
            await _CHANGES.read(connection, key, after)
        own = await self._limits.own_limits(key)
        if own.sequence > after.sequence:
            yield Page((own,), Position(own.sequence, own.commit_id))

    async def _look(self, mark: str) -> Look:
        async with self._fleet.transaction() as connection:
            return await _CHANGES.heads(connection, mark)


async def _is_first(
    connection: AsyncConnection, organization_id: str, request: ChangeRequest, *, limit_values: Mapping[str, Any] | None
) -> bool:
    """Notes the request; False when it was noted before. The same request elsewhere is waited for."""
    names = {
        "organization_id": organization_id,
        "request_id": request.request_id,
        "digest": request.digest,
        "limit_values": None if limit_values is None else json.dumps(limit_values),
    }
    return (await connection.execute(_NOTE_REQUEST, names)).rowcount == 1


async def _first_answer(connection: AsyncConnection, organization_id: str, request: ChangeRequest) -> Limit | None:
    names = {"organization_id": organization_id, "request_id": request.request_id}
    row = (await connection.execute(_NOTED_REQUEST, names)).one()
    if bytes(row.digest) != request.digest:
        raise RequestIdReused(request_id=request.request_id)
    return None if row.limit_values is None else _limit(row.limit_values)


async def _change(
    connection: AsyncConnection,
    organization_id: str,
    request: ChangeRequest,
    *,
    limit_id: str,
    after: Mapping[str, Any] | None,
) -> dict[str, Limit]:
    """Takes the organization's turn by the entry of the change, and answers the limits before it."""
    await connection.execute(_LOCK_HEAD, {"organization_id": organization_id})
    before = await _limits(connection, organization_id)
    replaced = before.get(limit_id)
    body = {
        "actor": request.actor,
        "request_id": request.request_id,
        "limit_id": limit_id,
        "before": None if replaced is None else _values(replaced),
        "after": after,
    }
    kind = "limit_deleted" if after is None else "limit_set"
    await _CHANGES.append(connection, organization_id, kind=kind, body=body)
    # In its turn: no two forget the same.
    bounds = {
        "days": REQUESTS_REMEMBERED_DAYS,
        "remembered": REQUESTS_REMEMBERED_MAX,
        "at_once": REQUESTS_FORGOTTEN_AT_ONCE_MAX,
    }
    await connection.execute(_FORGET_REQUESTS, {"organization_id": organization_id, **bounds})
    return before


async def _head(connection: AsyncConnection, organization_id: str) -> Position:
    row = (await connection.execute(_HEAD, {"organization_id": organization_id})).one_or_none()
    return START if row is None else Position(row.sequence, row.commit_id)


async def _limits(connection: AsyncConnection, organization_id: str) -> dict[str, Limit]:
    rows = await connection.execute(_LIST, {"organization_id": organization_id})
    return {row.limit_id: _limit_from_row(row) for row in rows}


def _values(limit: Limit) -> dict[str, Any]:
    """The limit as the columns of its row."""
    return {
        "limit_id": limit.limit_id,
        "scope_kind": limit.scope.kind.value,
        "scope_id": limit.scope.id,
        "meter": limit.meter,
        "kind": limit.kind.value,
        "value": limit.value,
        "grace_percent": limit.grace_percent,
        "window_us": None if limit.window is None else limit.window.length_us,
        "window_style": None if limit.window is None else limit.window.style.value,
        "on_unavailable": limit.on_unavailable.value,
        "shadow": limit.shadow,
    }


def _limit_from_row(row: Row[Any]) -> Limit:
    return _limit(row._asdict())


def _limit(values: Mapping[str, Any]) -> Limit:
    window = None
    if values["window_us"] is not None:
        window = Window(values["window_us"], WindowStyle(values["window_style"]))
    return Limit(
        limit_id=values["limit_id"],
        scope=LimitScope(ScopeKind(values["scope_kind"]), values["scope_id"]),
        meter=values["meter"],
        kind=LimitKind(values["kind"]),
        value=values["value"],
        grace_percent=values["grace_percent"],
        window=window,
        on_unavailable=UnavailablePolicy(values["on_unavailable"]),
        shadow=values["shadow"],
    )


_COLUMNS = (
    "limit_id, scope_kind, scope_id, meter, kind, value, grace_percent, window_us, window_style, on_unavailable, shadow"
)
_HEAD = text("SELECT sequence, commit_id FROM quota.change_heads WHERE organization_id = :organization_id")
# Begins the head where there is none, so that there is a row to wait for.
_LOCK_HEAD = text("""
    INSERT INTO quota.change_heads AS heads (organization_id, sequence, commit_id) VALUES (:organization_id, 0, '')
    ON CONFLICT (organization_id) DO UPDATE SET sequence = heads.sequence
""")
_LIST = text(f"SELECT {_COLUMNS} FROM quota.limits WHERE organization_id = :organization_id")  # noqa: S608 - ours
_SET = text("""
    INSERT INTO quota.limits (organization_id, limit_id, scope_kind, scope_id, meter, kind, value, grace_percent,
        window_us, window_style, on_unavailable, shadow)
    VALUES (:organization_id, :limit_id, :scope_kind, :scope_id, :meter, :kind, :value, :grace_percent,
        :window_us, :window_style, :on_unavailable, :shadow)
    ON CONFLICT (organization_id, limit_id) DO UPDATE SET scope_kind = excluded.scope_kind,
        scope_id = excluded.scope_id, meter = excluded.meter, kind = excluded.kind, value = excluded.value,
        grace_percent = excluded.grace_percent, window_us = excluded.window_us, window_style = excluded.window_style,
        on_unavailable = excluded.on_unavailable, shadow = excluded.shadow
""")
_DELETE = text("DELETE FROM quota.limits WHERE organization_id = :organization_id AND limit_id = :limit_id")
_NOTE_REQUEST = text("""
    INSERT INTO quota.requests (organization_id, request_id, digest, limit_values)
    VALUES (:organization_id, :request_id, :digest, CAST(:limit_values AS jsonb))
    ON CONFLICT (organization_id, request_id) DO NOTHING
""")
# Older than may be remembered, or than the newest of which so many are; greatest() passes over a NULL.
_FORGET_REQUESTS = text("""
    DELETE FROM quota.requests WHERE organization_id = :organization_id AND request_id IN (
        SELECT request_id FROM quota.requests
        WHERE organization_id = :organization_id AND create_time <= greatest(
            now() - make_interval(days => :days),
            (SELECT create_time FROM quota.requests WHERE organization_id = :organization_id
                ORDER BY create_time DESC OFFSET :remembered LIMIT 1))
        ORDER BY create_time LIMIT :at_once)
""")
_NOTED_REQUEST = text("""
    SELECT digest, limit_values FROM quota.requests
    WHERE organization_id = :organization_id AND request_id = :request_id
""")
