"""Telling the owner of a log how far it was followed, so that it may drop what everybody has passed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import count, islice

import structlog

from kit.errors import Refused
from kit.feed import Position

log = structlog.get_logger()

CONFIRM_EVERY_SECONDS = 60.0
REPEAT_EVERY_CONFIRMATIONS = 60
"""Everything is said again once an hour."""
CONFIRMED_AT_ONCE = 500


class Confirmations:
    """Positions that are to be confirmed: the last one of each key, once in a while.

    Late or lost is harmless: the owner keeps entries longer. What counts at the owner is what was confirmed last, so a
    follower that begins a key anew takes back what it said before. And because the last word may be lost (a lost
    failover of the owner's) or another process' that knew less, all is said again from time to time: a key that rests
    would else hold entries for ever.
    """

    def __init__(self, send: Callable[[Mapping[str, Position]], Awaitable[None]]) -> None:
        """send: takes up to CONFIRMED_AT_ONCE positions to the owner; raises Refused when it cannot."""
        self._send = send
        self._pending: dict[str, Position] = {}
        self._sent: dict[str, Position] = {}

    def note(self, key: str, position: Position) -> None:
        """What was reached, and is safe in the follower's own store."""
        if self._sent.get(key) != position:
            self._pending[key] = position

    async def run(self) -> None:
        """Confirms what was noted, until cancelled."""
        for number in count():
            if number % REPEAT_EVERY_CONFIRMATIONS == 0:
                self.repeat()
            try:
                await self.confirm()
            except Refused as error:
                log.warning("not_confirmed", error=str(error))
            await asyncio.sleep(CONFIRM_EVERY_SECONDS)

    def repeat(self) -> None:
        """What was confirmed is to be confirmed again, by the next `confirm`."""
        self._pending = self._sent | self._pending

    async def confirm(self) -> None:
        """Confirms what was noted so far. Raises what sending raises; what was not sent stays noted."""
        while self._pending:
            positions = dict(islice(self._pending.items(), CONFIRMED_AT_ONCE))
            await self._send(positions)
            self._sent |= positions
            for key, position in positions.items():
                if self._pending[key] == position:
                    del self._pending[key]
