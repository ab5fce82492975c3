"""Frees expired reservations soon after their end."""

from __future__ import annotations

import asyncio

import structlog

from kit.errors import Refused
from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.free_expired import FreeExpired

log = structlog.get_logger()

SWEEP_EVERY_SECONDS = 0.2
SWEPT_TOGETHER_MAX = 16


async def keep_freeing(agenda: ExpiryAgenda, free_expired: FreeExpired) -> None:
    """Frees what this process knows to be due, until cancelled."""
    while True:
        due = agenda.take_due(at_most=SWEPT_TOGETHER_MAX)
        for outcome in await asyncio.gather(*map(free_expired, due), return_exceptions=True):
            if isinstance(outcome, Refused):
                log.warning("expiry_retries", error=str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome
        if not due:
            await asyncio.sleep(SWEEP_EVERY_SECONDS)
