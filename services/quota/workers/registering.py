"""Registers grants soon after the store answers again."""

from __future__ import annotations

import asyncio
from random import sample

import structlog

from kit.errors import Refused
from services.quota.application.grants import Grants
from services.quota.application.register_grants import RegisterGrants

log = structlog.get_logger()

REGISTER_EVERY_SECONDS = 0.25
FAILURES_MAX = 3
"""In one round; then the store is away for most, and asking each would only take time."""


async def keep_registering(grants: Grants, register: RegisterGrants) -> None:
    """Registers what this process has granted, one organization after the other, until cancelled."""
    while True:
        failures_count = 0
        # Not in their order: those whose store is away must not stand in the way of the others for ever.
        for organization_id in sample(grants.organizations, len(grants.organizations)):
            try:
                await register(organization_id)
            except Refused as error:
                log.warning("registering_retries", organization_id=organization_id, error=str(error))
                failures_count += 1
                if failures_count == FAILURES_MAX:
                    break
        await asyncio.sleep(REGISTER_EVERY_SECONDS)
