"""Setting papers in type."""

from __future__ import annotations

from typing import Protocol

from services.billing.domain.papers import Paper


class Papers(Protocol):
    """A typesetter."""

    async def render(self, paper: Paper) -> bytes:
        """The paper as a PDF file: the same content gives the same bytes. What a paper says is text, never markup."""
        ...
