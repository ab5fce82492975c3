"""Keeps the partitions of the coming weeks in place."""

from __future__ import annotations

import asyncio
from typing import Protocol

MAKE_EVERY_SECONDS = 10.0
"""Nothing to do costs a millisecond; where one is missing, the service is out of rotation until it is made."""


class PartitionMaker(Protocol):
    """Makes partitions."""

    async def make_partitions(self) -> None:
        """Makes those that are missing of the coming weeks."""
        ...


async def keep_partitions(partitions: PartitionMaker) -> None:
    """Makes partitions at once and every MAKE_EVERY_SECONDS, until cancelled."""
    while True:
        await partitions.make_partitions()
        await asyncio.sleep(MAKE_EVERY_SECONDS)
