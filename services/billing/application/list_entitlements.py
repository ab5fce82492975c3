"""List entitlements: the limits and features in force."""

from __future__ import annotations

from services.billing.application.find_plan import FindPlan
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.subscriptions import Entitlement


class ListEntitlements:
    """Shows an organization what it may use."""

    def __init__(self, find_plan: FindPlan, subscription_in_force: SubscriptionInForce) -> None:
        self._find_plan = find_plan
        self._subscription_in_force = subscription_in_force

    async def __call__(self, organization_id: str) -> Entitlement:
        """What is in force now. Raises OrganizationNotFound, InvalidState before the first catalog is applied, and
        DependencyUnavailable.
        """
        standing = await self._subscription_in_force(organization_id)
        subscription = standing.subscription
        return Entitlement(
            organization_id=organization_id,
            version=subscription.entitlement_version,
            plan=await self._find_plan(organization_id, subscription.plan_ref),
            status=subscription.status,
            period=standing.period,
        )
