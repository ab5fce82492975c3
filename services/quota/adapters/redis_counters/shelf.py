"""The port of terms over Redis."""

from __future__ import annotations

import time
from typing import Any

from kit.feed import Position
from services.quota.adapters.redis_counters.calls import (
    KEPT_AFTER_PERIOD_MS,
    Argument,
    Calls,
    OverRedis,
    kept_until_ms,
)
from services.quota.adapters.redis_counters.documents import (
    entitlement_from_document,
    entitlement_to_document,
    limits_from_document,
    limits_to_document,
)
from services.quota.adapters.redis_counters.keys import (
    keys_of,
)
from services.quota.application.ports import (
    InForce,
    Kept,
)
from services.quota.domain.entitlements import Entitlement
from services.quota.domain.terms import OwnLimits


class RedisShelf(OverRedis):
    """TermsShelf."""

    def __init__(self, calls: Calls) -> None:
        super().__init__(calls)
        self._put_entitlement = calls.script("put_entitlement")
        self._put_limits = calls.script("put_limits")

    async def kept(self, organization_id: str) -> Kept:
        fields = ["document", "limits_document", "limits_sequence", "limits_commit_id"]
        async with self._answering():
            values: list[Any] = await self._client.execute_command(
                "HMGET", keys_of(organization_id).entitlement, *fields
            )
        document, limits, sequence, commit_id = values
        return Kept(
            None if document is None else entitlement_from_document(document),
            None if limits is None else _own_limits(organization_id, sequence, commit_id, limits),
        )

    async def limits_position(self, organization_id: str) -> Position | None:
        async with self._answering():
            values: list[Any] = await self._client.execute_command(
                "HMGET", keys_of(organization_id).entitlement, "limits_sequence", "limits_commit_id"
            )
        return None if values[0] is None else Position(int(values[0]), values[1].decode())

    async def put_limits(self, own: OwnLimits) -> OwnLimits:
        sequence, commit_id, document = await self._keep_limits(own, expected=None)
        return _own_limits(own.organization_id, sequence, commit_id, document)

    async def replace_limits(self, own: OwnLimits, *, expected: Position) -> bool:
        return bool(await self._keep_limits(own, expected=expected))

    async def _keep_limits(self, own: OwnLimits, *, expected: Position | None) -> Any:
        args: list[Argument] = [
            own.sequence,
            own.commit_id,
            limits_to_document(own.limits),
            time.time_ns() // 1_000_000 + KEPT_AFTER_PERIOD_MS,
            *((0,) if expected is None else (1, expected.sequence, expected.commit_id)),
        ]
        async with self._answering():
            return await self._put_limits(keys=[keys_of(own.organization_id).entitlement], args=args)

    async def entitlement(self, organization_id: str) -> Entitlement | None:
        async with self._answering():
            document = await self._client.execute_command("HGET", keys_of(organization_id).entitlement, "document")
        return None if document is None else entitlement_from_document(document)

    async def read_up_to(self, organization_id: str) -> Position | None:
        async with self._answering():
            values: list[Any] = await self._client.execute_command(
                "HMGET", keys_of(organization_id).entitlement, "read_sequence", "read_commit_id"
            )
        return None if values[0] is None else Position(int(values[0]), values[1].decode())

    async def put(self, found: InForce) -> Entitlement:
        document: bytes = await self._keep(found, expected=None)
        return entitlement_from_document(document)

    async def replace(self, found: InForce, *, expected: Position) -> bool:
        return bool(await self._keep(found, expected=expected))

    async def _keep(self, found: InForce, *, expected: Position | None) -> Any:
        entitlement, period = found.entitlement, found.entitlement.period
        args: list[Argument] = [
            entitlement.version,
            period.start_us,
            period.end_us,
            entitlement_to_document(entitlement),
            kept_until_ms(period),
            found.position.sequence,
            found.position.commit_id,
            *((0,) if expected is None else (1, expected.sequence, expected.commit_id)),
        ]
        async with self._answering():
            return await self._put_entitlement(keys=[keys_of(entitlement.organization_id).entitlement], args=args)


def _own_limits(organization_id: str, sequence: bytes, commit_id: bytes, document: bytes) -> OwnLimits:
    return OwnLimits(
        organization_id=organization_id,
        sequence=int(sequence),
        commit_id=commit_id.decode(),
        limits=limits_from_document(document),
    )
