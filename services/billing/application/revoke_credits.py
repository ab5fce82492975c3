"""Revoke credits: takes back what is left of a grant."""

from __future__ import annotations

from kit.clock import Clock
from services.billing.application.ports.books import Books
from services.billing.domain.credits import GrantStanding
from services.billing.domain.requests import request_digest, require_request_id


class RevokeCredits:
    """Takes credits back."""

    def __init__(self, books: Books, clock: Clock) -> None:
        self._books = books
        self._clock = clock

    async def __call__(self, organization_id: str, grant_id: str, *, request_id: str, actor: str) -> GrantStanding:
        """The grant with nothing available; what it paid stays paid. Idempotent. Raises NotFound and
        RequestIdReused.
        """
        require_request_id(request_id)
        digest = request_digest("RevokeCredits", organization_id, grant_id)
        async with self._books.open(organization_id) as book:
            if await book.requests.answer_to(request_id, digest) is not None:
                return await book.credits.get(grant_id)
            standing = await book.credits.revoke(grant_id, at=self._clock.now(), actor=actor, request_id=request_id)
            await book.requests.remember(request_id, digest, grant_id)
            return standing
