"""The callers' ids of requests that were done, in memory."""

from __future__ import annotations

from kit.errors import RequestIdReused
from services.billing.adapters.memory.world import Answer, World


class MemoryRequests:
    """RequestBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._pages = world.pages[organization_id]

    async def answer_to(self, request_id: str, digest: bytes) -> str | None:
        """As RequestBook."""
        answer = self._pages.answers.get(request_id)
        if answer is None:
            return None
        if answer.digest != digest:
            raise RequestIdReused(request_id=request_id)
        return answer.result_id

    async def remember(self, request_id: str, digest: bytes, result_id: str) -> None:
        """As RequestBook."""
        self._pages.answers[request_id] = Answer(digest, result_id)
