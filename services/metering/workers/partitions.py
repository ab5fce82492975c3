"""Keeps the partitions of the coming weeks in place."""

from __future__ import annotations

import asyncio
from typing import Protocol

MAKE_EVERY_SECONDS = 3600.0


class PartitionMaker(Protocol):
    """Makes partitions."""

    async def make_partitions(self) -> None:
        """Makes those that are missing of the coming weeks."""
        ...


async def keep_partitions(partitions: PartitionMaker) -> None:
    """Makes partitions at once and every hour, until cancelled."""
    while True:
        await partitions.make_partitions()
        await asyncio.sleep(MAKE_EVERY_SECONDS)
