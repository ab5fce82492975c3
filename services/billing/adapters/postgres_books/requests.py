"""The callers' ids of requests that were done, in Postgres."""

from __future__ import annotations

from sqlalchemy import text

from kit.errors import RequestIdReused
from services.billing.adapters.postgres_books.page import Page


class PostgresRequests:
    """RequestBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def answer_to(self, request_id: str, digest: bytes) -> str | None:
        """As RequestBook."""
        row = (await self._page.execute(_ANSWER, self._page.names(request_id=request_id))).one_or_none()
        if row is None:
            return None
        if bytes(row.digest) != digest:
            raise RequestIdReused(request_id=request_id)
        return str(row.result_id)

    async def remember(self, request_id: str, digest: bytes, result_id: str) -> None:
        """As RequestBook."""
        names = self._page.names(request_id=request_id, digest=digest, result_id=result_id)
        await self._page.execute(_REMEMBER_ANSWER, names)


_ANSWER = text("""
    SELECT digest, result_id FROM billing.requests
    WHERE organization_id = :organization_id AND request_id = :request_id
""")
_REMEMBER_ANSWER = text("""
    INSERT INTO billing.requests (organization_id, request_id, digest, result_id)
    VALUES (:organization_id, :request_id, :digest, :result_id)
""")
