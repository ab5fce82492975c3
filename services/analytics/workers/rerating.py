"""Keeps costs in step with prices."""

from __future__ import annotations

import asyncio

from services.analytics.application.rerate_calls import RerateCalls

RERATE_EVERY_SECONDS = 1.0


async def keep_rerating(rerate_calls: RerateCalls) -> None:
    """Re-rates what new prices concern, at once and every second, until cancelled. A second without new prices costs
    two queries of one row each.
    """
    while True:
        await rerate_calls()
        await asyncio.sleep(RERATE_EVERY_SECONDS)
