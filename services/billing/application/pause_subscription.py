"""Pause subscription: nothing may be used, and no base fee is owed, until it is resumed."""

from __future__ import annotations

from services.billing.application.act_on_subscription import ActOnSubscription, Asked
from services.billing.application.subscription_in_force import Standing
from services.billing.domain import lifecycle
from services.billing.domain.lifecycle import Command
from services.billing.domain.requests import request_digest, require_request_id


class PauseSubscription:
    """Sets a subscription aside."""

    def __init__(self, act_on_subscription: ActOnSubscription) -> None:
        self._act_on_subscription = act_on_subscription

    async def __call__(self, organization_id: str, *, request_id: str, actor: str) -> Standing:
        """The subscription, paused from now on.

        Raises InvalidState on `free` and when its status does not allow it, RequestIdReused, OrganizationNotFound and
        DependencyUnavailable.
        """
        require_request_id(request_id)
        digest = request_digest("PauseSubscription", organization_id)
        asked = Asked(organization_id=organization_id, request_id=request_id, digest=digest, actor=actor)
        return await self._act_on_subscription(
            asked, Command.PAUSE, lambda situation: lifecycle.pause(situation.timeline, now=situation.now)
        )
