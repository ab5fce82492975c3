"""Audits the organizations that this process serves, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from kit.errors import Refused
from kit.feed import Follower
from services.quota.application.audit_counters import AuditCounters

log = structlog.get_logger()

AUDIT_EVERY_SECONDS = 1.0
"""For one organization: some milliseconds of Redis and metering each second, whatever the number of organizations."""


async def keep_auditing(
    organizations: Callable[[], Sequence[str]], followers: Sequence[Follower[Any]], audit: AuditCounters
) -> None:
    """Audits in rotation and repairs, until cancelled. Before that it follows up each organization: a store that was
    taken back to an earlier state has fallen behind without any log having moved.
    """
    while True:
        for organization_id in organizations():
            await asyncio.sleep(AUDIT_EVERY_SECONDS)
            try:
                for follower in followers:
                    await follower.catch_up(organization_id)
                await audit(organization_id, repair=True)
            except Refused as error:
                log.warning("audit_retries", organization_id=organization_id, error=str(error))
        await asyncio.sleep(AUDIT_EVERY_SECONDS)
