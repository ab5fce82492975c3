"""Cancel subscription: back to `free`, at once or when what is paid in advance ends."""

from __future__ import annotations

from services.billing.application.act_on_subscription import ActOnSubscription, Asked, Situation
from services.billing.application.subscription_in_force import Standing
from services.billing.domain import lifecycle
from services.billing.domain.lifecycle import ChangeTime, Command
from services.billing.domain.requests import request_digest, require_request_id
from services.billing.domain.timeline import Timeline


class CancelSubscription:
    """Ends a subscription."""

    def __init__(self, act_on_subscription: ActOnSubscription) -> None:
        self._act_on_subscription = act_on_subscription

    async def __call__(
        self, organization_id: str, *, change_time: ChangeTime = ChangeTime.AT_PERIOD_END, request_id: str, actor: str
    ) -> Standing:
        """The subscription that ends, with the end in its timeline. From that instant the organization is on `free`.

        Raises InvalidState on `free`, RequestIdReused, OrganizationNotFound and DependencyUnavailable.
        """
        require_request_id(request_id)
        digest = request_digest("CancelSubscription", organization_id, change_time.value)
        asked = Asked(organization_id=organization_id, request_id=request_id, digest=digest, actor=actor)

        def decide(situation: Situation) -> Timeline:
            timeline, now = situation.timeline, situation.now
            until = lifecycle.paid_until(timeline, now, interval_months=situation.plan.interval.months)
            return lifecycle.cancel(timeline, now=now, at=now if change_time is ChangeTime.AT_ONCE else until)

        return await self._act_on_subscription(asked, Command.CANCEL, decide)
