"""The callers' ids of requests that were done."""

from __future__ import annotations

from typing import Protocol


class RequestReader(Protocol):
    """The requests in one organization's books."""

    async def answer_to(self, request_id: str, digest: bytes) -> str | None:
        """The id of what this request made when it came first; None when it never came. Raises RequestIdReused when it
        came with another digest.
        """
        ...


class RequestBook(RequestReader, Protocol):
    """The same, open for writing."""

    async def remember(self, request_id: str, digest: bytes, result_id: str) -> None:
        """Keeps what a request made, for its retries."""
        ...
