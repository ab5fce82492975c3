"""Resume subscription: takes a cancellation back that has not come yet, and ends a pause."""

from __future__ import annotations

from services.billing.application.act_on_subscription import ActOnSubscription, Asked
from services.billing.application.subscription_in_force import Standing
from services.billing.domain import lifecycle
from services.billing.domain.lifecycle import Command
from services.billing.domain.requests import request_digest, require_request_id


class ResumeSubscription:
    """Lets a subscription go on."""

    def __init__(self, act_on_subscription: ActOnSubscription) -> None:
        self._act_on_subscription = act_on_subscription

    async def __call__(self, organization_id: str, *, request_id: str, actor: str) -> Standing:
        """The subscription, neither paused nor about to end.

        Raises InvalidState on `free` and when it was neither, RequestIdReused, OrganizationNotFound and
        DependencyUnavailable.
        """
        require_request_id(request_id)
        digest = request_digest("ResumeSubscription", organization_id)
        asked = Asked(organization_id=organization_id, request_id=request_id, digest=digest, actor=actor)
        return await self._act_on_subscription(
            asked, Command.RESUME, lambda situation: lifecycle.resume(situation.timeline, now=situation.now)
        )
