"""How far this process has handed the ledger over to each service that follows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kit.feed import Head, Lag, Position
from kit.grpc.streams import LongCalls
from services.metering.application.metrics import FOLLOWER_BEHIND, FOLLOWER_WATCHES
from services.metering.domain import limits


class HandingOver:
    """Keeps the owner's view of its followers: by the name of the service, all its processes together, while one of
    them watches here. What a follower never reads is of no interest to it, and it is not behind with that.
    """

    def __init__(self) -> None:
        self._calls = LongCalls("watches of the ledger's heads", calls_max=limits.WATCHES_MAX)
        self._followers: dict[str, _Following] = {}

    @contextmanager
    def watch(self, follower: str) -> Iterator[None]:
        """Lasts as long as a watch of the follower. Raises Overloaded when there are too many of all followers."""
        with self._calls.place():
            following = self._followers.setdefault(follower, _Following(Lag(FOLLOWER_BEHIND.labels(follower))))
            following.watches += 1
            FOLLOWER_WATCHES.labels(follower).set(following.watches)
            try:
                yield
            finally:
                following.watches -= 1
                FOLLOWER_WATCHES.labels(follower).set(following.watches)
                if not following.watches:
                    # Where it reads from now on is not known here, and it must not seem to fall behind for ever.
                    del self._followers[follower]
                    FOLLOWER_BEHIND.labels(follower).set(0)

    def told(self, follower: str, heads: Iterable[Head]) -> None:
        """The follower is told of these heads."""
        if following := self._followers.get(follower):
            for head in heads:
                following.lag.note(head.key, head=head.position.sequence)

    def handed(self, follower: str, key: str, position: Position) -> None:
        """The follower has the key's entries up to the position: it says so, or they were sent."""
        if following := self._followers.get(follower):
            following.lag.note(key, reached=position.sequence)


@dataclass(slots=True)
class _Following:
    lag: Lag
    watches: int = 0
