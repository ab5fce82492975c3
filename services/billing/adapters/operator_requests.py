"""What the operator changed that belongs to no organization, in Postgres: once per request, and who did it."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import RequestIdReused


async def was_done(connection: AsyncConnection, request_id: str, digest: bytes) -> bool:
    """Whether this request was done before. Those that ask take turns until their transactions end. Raises
    RequestIdReused when it came with another digest.
    """
    await connection.execute(_TAKE_TURN)
    before = (await connection.execute(_REQUEST, {"request_id": request_id})).scalar_one_or_none()
    if before is not None and bytes(before) != digest:
        raise RequestIdReused(request_id=request_id)
    return before is not None


async def remember(
    connection: AsyncConnection, request_id: str, digest: bytes, *, method: str, subject: str, actor: str
) -> None:
    """Keeps that it was done, in the transaction of its effect."""
    names = {"request_id": request_id, "digest": digest, "method": method, "subject": subject, "actor": actor}
    await connection.execute(_REMEMBER, names)


_TAKE_TURN = text("SELECT pg_advisory_xact_lock(hashtext('billing.operator_requests'))")
_REQUEST = text("SELECT digest FROM billing.operator_requests WHERE request_id = :request_id")
_REMEMBER = text("""
    INSERT INTO billing.operator_requests (request_id, digest, method, subject, actor)
    VALUES (:request_id, :digest, :method, :subject, :actor)
""")
