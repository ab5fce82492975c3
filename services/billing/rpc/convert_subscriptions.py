"""Subscriptions and entitlements on the wire and in the domain."""

from __future__ import annotations

from datetime import datetime

from kit.errors import InvalidField, LimitExceeded
from kit.grpc.convert import moment_from_pb, moment_to_pb
from services.billing.application.find_wanted_plan import CustomTerms
from services.billing.application.get_subscription_usage import SubscriptionUsage
from services.billing.application.subscription_in_force import Standing
from services.billing.domain import limits
from services.billing.domain.catalog import PlanMeter
from services.billing.domain.lifecycle import ChangeTime
from services.billing.domain.subscriptions import MAY_USE, Entitlement, SubscriptionStatus
from services.billing.domain.timeline import Phase
from services.billing.domain.usage_reports import PeriodUsage
from services.billing.rpc.convert_catalog import plan_meters_to_pb, plan_text_from_pb
from tollbook.billing.v1 import billing_pb2, catalog_pb2, entitlements_pb2

_CHANGE_TIMES = {
    billing_pb2.CHANGE_TIME_UNSPECIFIED: None,
    billing_pb2.CHANGE_TIME_AT_ONCE: ChangeTime.AT_ONCE,
    billing_pb2.CHANGE_TIME_AT_PERIOD_END: ChangeTime.AT_PERIOD_END,
}


def start_time_from_pb(message: billing_pb2.Subscription) -> datetime | None:
    """When it is to begin; None: nothing is said. Raises InvalidField."""
    return moment_from_pb(message.start_time, "subscription.start_time") if message.HasField("start_time") else None


def change_time_from_pb(change_time: billing_pb2.ChangeTime.ValueType) -> ChangeTime | None:
    """When a change is to take effect; None: nothing is said. Raises InvalidField."""
    if change_time not in _CHANGE_TIMES:
        raise InvalidField(field="change_time", problem="not a ChangeTime")
    return _CHANGE_TIMES[change_time]


def custom_terms_from_pb(message: catalog_pb2.Plan) -> CustomTerms:
    """The terms as written."""
    return CustomTerms(plan_text_from_pb(message), message.SerializeToString(deterministic=True).hex())


def subscription_to_pb(standing: Standing) -> billing_pb2.Subscription:
    """The subscription with its current period, what it was and what it will be."""
    subscription, timeline = standing.subscription, standing.timeline
    following = subscription.next_change_time
    coming = [] if following is None else [phase for phase in timeline.phases if phase.start >= following]
    scheduled = next((phase for phase in coming if phase.plan != subscription.plan_ref), None)
    has_trial = timeline.start < timeline.anchor
    return billing_pb2.Subscription(
        subscription_id=subscription.subscription_id,
        organization_id=subscription.organization_id,
        plan_id=subscription.plan_id,
        plan_version=subscription.plan_version,
        status=_status_to_pb(subscription.status),
        start_time=moment_to_pb(subscription.start),
        period_start_time=moment_to_pb(standing.period.start),
        period_end_time=moment_to_pb(standing.period.end),
        stripe_customer_id=subscription.stripe_customer_id,
        currency_code=subscription.currency_code,
        anchor_time=moment_to_pb(subscription.anchor),
        trial_end_time=moment_to_pb(timeline.anchor) if has_trial else None,
        cancel_time=None if timeline.end is None else moment_to_pb(timeline.end),
        has_custom_terms=bool(subscription.custom_id),
        phases=map(_phase_to_pb, timeline.phases),
        scheduled_change=None if scheduled is None else _phase_to_pb(scheduled),
    )


def entitlement_to_pb(entitlement: Entitlement) -> entitlements_pb2.Entitlement:
    """The entitlement, as other services follow it."""
    return entitlements_pb2.Entitlement(
        organization_id=entitlement.organization_id,
        version=entitlement.version,
        plan_id=entitlement.plan.plan_id,
        status=_status_to_pb(entitlement.status),
        period_start_time=moment_to_pb(entitlement.period.start),
        period_end_time=moment_to_pb(entitlement.period.end),
        meters=plan_meters_to_pb(entitlement.plan),
        features=entitlement.plan.features,
    )


def entitlements_to_pb(entitlement: Entitlement) -> billing_pb2.ListEntitlementsResponse:
    """The entitlement, as its organization reads it."""
    return billing_pb2.ListEntitlementsResponse(
        plan_id=entitlement.plan.plan_id,
        plan_version=entitlement.plan.version,
        status=_status_to_pb(entitlement.status),
        is_allowed=entitlement.status in MAY_USE,
        period_start_time=moment_to_pb(entitlement.period.start),
        period_end_time=moment_to_pb(entitlement.period.end),
        limits=[_limit_to_pb(each) for each in entitlement.plan.meters],
        features=entitlement.plan.features,
    )


def period_count_from_pb(period_count: int) -> int:
    """How many periods; 0 means the current one. Raises LimitExceeded and InvalidField."""
    if period_count < 0:
        raise InvalidField(field="period_count", problem="negative")
    if period_count > limits.USAGE_PERIODS_MAX:
        raise LimitExceeded(what="period_count", actual=period_count, maximum=limits.USAGE_PERIODS_MAX)
    return period_count or 1


def usage_to_pb(usage: SubscriptionUsage) -> billing_pb2.GetSubscriptionUsageResponse:
    """Usage by period."""
    return billing_pb2.GetSubscriptionUsageResponse(
        periods=map(_period_usage_to_pb, usage.periods), as_of_sequence=usage.as_of_sequence
    )


def _period_usage_to_pb(usage: PeriodUsage) -> billing_pb2.PeriodUsage:
    return billing_pb2.PeriodUsage(
        subscription_id=usage.stretch.timeline.subscription_id,
        plan_id=usage.plan.plan_id,
        plan_version=usage.plan.version,
        start_time=moment_to_pb(usage.stretch.interval.start),
        end_time=moment_to_pb(usage.stretch.interval.end),
        currency_code=usage.cost.currency_code,
        meters=[
            billing_pb2.MeterUsage(
                meter=each.meter,
                used_quantity=each.used_quantity,
                limit_quantity=each.limit_quantity,
                included_quantity=each.included_quantity,
                overage_quantity=each.overage_quantity,
                cost=str(each.cost),
            )
            for each in usage.meters
        ],
        cost=str(usage.cost),
    )


def _limit_to_pb(each: PlanMeter) -> billing_pb2.EntitledLimit:
    return billing_pb2.EntitledLimit(
        meter=each.meter,
        limit_kind=catalog_pb2.PlanLimitKind.Value(f"PLAN_LIMIT_KIND_{each.limit_kind.value}"),
        limit_quantity=each.limit_quantity,
        grace_percent=each.grace_percent,
    )


def _phase_to_pb(phase: Phase) -> billing_pb2.SubscriptionPhase:
    return billing_pb2.SubscriptionPhase(
        start_time=moment_to_pb(phase.start),
        plan_id=phase.plan.plan_id,
        plan_version=phase.plan.version,
        has_custom_terms=bool(phase.plan.custom_id),
        is_trial=phase.is_trial,
        is_paused=phase.is_paused,
    )


def _status_to_pb(status: SubscriptionStatus) -> billing_pb2.SubscriptionStatus.ValueType:
    return billing_pb2.SubscriptionStatus.Value(f"SUBSCRIPTION_STATUS_{status.value}")
