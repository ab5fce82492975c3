"""Organizations' own limits in memory, for tests of what stands on them; they keep the promises of the port."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

from kit.errors import LogRewound, NotFound, RequestIdReused
from kit.feed import START, Head, Page, Position
from services.quota.application.ports import ChangeRequest
from services.quota.domain.limits import Limit
from services.quota.domain.own_limits import require_room
from services.quota.domain.terms import OwnLimits


class MemoryLimits:
    """LimitRecord, and kit.feed.Feed of its changes, over a list of every state there was."""

    def __init__(self) -> None:
        self._states: dict[str, list[OwnLimits]] = defaultdict(list)
        self._requests: dict[tuple[str, str], tuple[bytes, Limit | None]] = {}

    def rewind(self, organization_id: str, *, to: int) -> None:
        """Forgets the entries after a sequence, as a restored backup does."""
        del self._states[organization_id][to:]

    async def own_limits(self, organization_id: str) -> OwnLimits:
        """As LimitRecord."""
        states = self._states[organization_id]
        if states:
            return states[-1]
        return OwnLimits(organization_id=organization_id, sequence=START.sequence, commit_id=START.commit_id, limits=())

    async def set(self, organization_id: str, limit: Limit, request: ChangeRequest) -> Limit:
        """As LimitRecord."""
        first = self._first_answer(organization_id, request)
        if first is not None:
            return first[1] or limit
        limits = {each.limit_id: each for each in (await self.own_limits(organization_id)).limits}
        limits[limit.limit_id] = limit
        require_room(limits.values())
        self._append(organization_id, limits, request, answer=limit)
        return limit

    async def delete(self, organization_id: str, limit_id: str, request: ChangeRequest) -> None:
        """As LimitRecord."""
        if self._first_answer(organization_id, request) is not None:
            return
        limits = {each.limit_id: each for each in (await self.own_limits(organization_id)).limits}
        if limits.pop(limit_id, None) is None:
            raise NotFound(what="limit", name=limit_id)
        self._append(organization_id, limits, request, answer=None)

    async def watch(self) -> AsyncIterator[Sequence[Head]]:
        """As Feed; ends after the heads of now."""
        yield [Head(key, _position(states[-1])) for key, states in self._states.items() if states]

    async def read(self, key: str, after: Position) -> AsyncIterator[Page[OwnLimits]]:
        """As Feed, but only the state of now: those between are history."""
        states = self._states[key]
        if after.sequence and after not in map(_position, states):
            raise LogRewound(sequence=after.sequence)
        own = await self.own_limits(key)
        if own.sequence > after.sequence:
            yield Page((own,), _position(own))

    def _first_answer(self, organization_id: str, request: ChangeRequest) -> tuple[bytes, Limit | None] | None:
        first = self._requests.get((organization_id, request.request_id))
        if first is not None and first[0] != request.digest:
            raise RequestIdReused(request_id=request.request_id)
        return first

    def _append(
        self, organization_id: str, limits: dict[str, Limit], request: ChangeRequest, *, answer: Limit | None
    ) -> None:
        states = self._states[organization_id]
        states.append(
            OwnLimits(
                organization_id=organization_id,
                sequence=len(states) + 1,
                commit_id=secrets.token_hex(8),
                limits=tuple(limits[limit_id] for limit_id in sorted(limits)),
            )
        )
        self._requests[organization_id, request.request_id] = (request.digest, answer)


def _position(own: OwnLimits) -> Position:
    return Position(own.sequence, own.commit_id)
