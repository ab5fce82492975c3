"""Put on plan: an organization gets the plan that it chose at Stripe."""

from __future__ import annotations

import structlog

from kit.errors import InvalidState, NotFound, OrganizationNotFound, Refused
from services.billing.application.cancel_subscription import CancelSubscription
from services.billing.application.change_plan import ChangePlan
from services.billing.application.create_subscription import CreateSubscription
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.catalog import FREE_PLAN
from services.billing.domain.lifecycle import ChangeTime

log = structlog.get_logger()


class PutOnPlan:
    """Begins, changes or ends a subscription, as another service of ours would ask for it."""

    def __init__(
        self,
        subscription_in_force: SubscriptionInForce,
        create_subscription: CreateSubscription,
        change_plan: ChangePlan,
        cancel_subscription: CancelSubscription,
    ) -> None:
        self._subscription_in_force = subscription_in_force
        self._create_subscription = create_subscription
        self._change_plan = change_plan
        self._cancel_subscription = cancel_subscription

    async def __call__(
        self, organization_id: str, plan_id: str, *, request_id: str, actor: str, ends_with_period: bool = False
    ) -> str:
        """Puts the organization on the plan and answers what came of it, in words; repeating it changes nothing. The
        opening of what begins is invoiced at once. ends_with_period: it is canceled for the end of its period, too.
        What the lifecycle refuses is an outcome, for nobody is there to be told; raises DependencyUnavailable.
        """
        try:
            current = (await self._subscription_in_force(organization_id)).subscription
            outcome = f"is on {plan_id}"
            if current.plan_id == FREE_PLAN:
                await self._create_subscription(
                    organization_id,
                    plan_id,
                    start_time=None,
                    is_opened_at_once=True,
                    request_id=request_id,
                    actor=actor,
                )
                outcome = f"put on {plan_id}"
            elif current.plan_id != plan_id:
                await self._change_plan(
                    organization_id, plan_id, change_time=ChangeTime.AT_ONCE, request_id=request_id, actor=actor
                )
                outcome = f"changed to {plan_id}"
            if ends_with_period:
                await self._cancel_subscription(organization_id, request_id=f"{request_id}:cancel", actor=actor)
                outcome += ", until its period ends"
        except (NotFound, OrganizationNotFound, InvalidState) as refusal:
            return _refused(organization_id, refusal)
        return outcome

    async def end(self, organization_id: str, plan_id: str, *, request_id: str, actor: str) -> str:
        """Down to `free` at once, if the plan is the one in force; else another has taken its place, which stays."""
        try:
            current = (await self._subscription_in_force(organization_id)).subscription
            if current.plan_id != plan_id:
                return f"is on {current.plan_id}"
            await self._cancel_subscription(
                organization_id, change_time=ChangeTime.AT_ONCE, request_id=request_id, actor=actor
            )
        except (NotFound, OrganizationNotFound, InvalidState) as refusal:
            return _refused(organization_id, refusal)
        return "ended"


def _refused(organization_id: str, refusal: Refused) -> str:
    # The money side goes on: whoever reads the log has to bring both together.
    log.error("choice_at_stripe_refused", organization_id=organization_id, error=str(refusal))
    return f"refused: {refusal}"
