"""Apply scheduled changes: puts in force what was scheduled and has come, so that whoever follows hears of it."""

from __future__ import annotations

import asyncio

import structlog

from kit.clock import Clock
from kit.errors import Refused
from services.billing.application.ports.due_changes import ChangeList, DueChange
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain import limits
from services.billing.domain.retries import retry_pause

log = structlog.get_logger()


class ApplyScheduledChanges:
    """Works off the list of what has come."""

    def __init__(self, due: ChangeList, subscription_in_force: SubscriptionInForce, clock: Clock) -> None:
        self._due = due
        self._subscription_in_force = subscription_in_force
        self._clock = clock

    async def __call__(self) -> int:
        """Puts in force what is due and can be claimed; answers how many it claimed. The list only says where to look:
        what is in force is decided by the timeline, in the books, so a stale list, a repeated claim and two workers do
        nothing twice. What fails is due again after a pause.
        """
        claimed = await self._due.claim(now=self._clock.now(), count=limits.CLAIMED_AT_ONCE)
        await asyncio.gather(*(self._apply(due) for due in claimed))
        return len(claimed)

    async def _apply(self, due: DueChange) -> None:
        try:
            async with asyncio.timeout(limits.CLAIM_WORK.total_seconds()):
                standing = await self._subscription_in_force(due.organization_id)
        except (Refused, TimeoutError) as error:
            await self._retry(due, str(error))
        except Exception as error:
            # A defect of ours, with this subscription; the others do not wait for it.
            log.exception("scheduled_change_failed", organization_id=due.organization_id)
            await self._retry(due, f"{type(error).__name__}: {error}")
        else:
            log.info("scheduled_change_in_force", subscription_id=standing.subscription.subscription_id)

    async def _retry(self, due: DueChange, error: str) -> None:
        log.warning("scheduled_change_retries", organization_id=due.organization_id, error=error)
        at = self._clock.now() + retry_pause(due.attempt_count)
        await self._due.retry(due, at=at, error=error[: limits.ERROR_TEXT_MAX])
