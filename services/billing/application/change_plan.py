"""Change plan: other terms for a subscription, at once or when what is paid in advance ends."""

from __future__ import annotations

from services.billing.application.act_on_subscription import ActOnSubscription, Asked, Situation
from services.billing.application.find_wanted_plan import CustomTerms, FindWantedPlan, WantedPlan
from services.billing.application.subscription_in_force import Standing
from services.billing.domain import lifecycle
from services.billing.domain.lifecycle import ChangeTime, Command
from services.billing.domain.requests import request_digest, require_request_id
from services.billing.domain.timeline import Timeline


class ChangePlan:
    """Puts a subscription on another plan."""

    def __init__(self, find_wanted_plan: FindWantedPlan, act_on_subscription: ActOnSubscription) -> None:
        self._find_wanted_plan = find_wanted_plan
        self._act_on_subscription = act_on_subscription

    async def __call__(
        self,
        organization_id: str,
        plan_id: str,
        *,
        change_time: ChangeTime | None = None,
        terms: CustomTerms | None = None,
        request_id: str,
        actor: str,
    ) -> Standing:
        """The subscription on the newest version of the plan, or on terms in its place; change_time None: at once when
        the base price rises, else when what is paid in advance ends. Naming the plan that is in force takes a scheduled
        change back; with none scheduled, it moves to the plan's newest version.

        Raises NotFound for an unknown plan, InvalidState for one that is not sold and as ActOnSubscription does,
        InvalidField for `free` (which is where a cancellation leads), CurrencyNotOffered, InvalidCatalog,
        RequestIdReused, OrganizationNotFound and DependencyUnavailable.
        """
        require_request_id(request_id)
        lifecycle.require_billed_plan(plan_id)
        time = None if change_time is None else change_time.value
        digest = request_digest("ChangePlan", organization_id, plan_id, time, terms.content if terms else None)
        wanted = await self._find_wanted_plan(plan_id, terms)
        asked = Asked(organization_id=organization_id, request_id=request_id, digest=digest, actor=actor)
        return await self._act_on_subscription(
            asked, Command.CHANGE_PLAN, lambda situation: _decide(situation, wanted, change_time), wanted=wanted
        )


def _decide(situation: Situation, wanted: WantedPlan, change_time: ChangeTime | None) -> Timeline:
    timeline, now = situation.timeline, situation.now
    current = timeline.phase_at(now).plan
    is_taking_back = current.plan_id == wanted.ref.plan_id and lifecycle.scheduled_plan(timeline, now) is not None
    if is_taking_back and not wanted.ref.custom_id:
        return lifecycle.change_plan(timeline, current, now=now, at=now)
    wanted.require_sold()
    is_at_once = lifecycle.is_at_once(change_time, situation.plan, wanted.plan, timeline.currency_code)
    until = lifecycle.paid_until(timeline, now, interval_months=situation.plan.interval.months)
    return lifecycle.change_plan(timeline, wanted.ref, now=now, at=now if is_at_once else until)
