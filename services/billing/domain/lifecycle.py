"""The life of a subscription. Each command answers the timeline as it is from then on: phases that began before the
command's moment are history and stay; those after it are plans, of which the latest word counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from fractions import Fraction

from kit.errors import InvalidField, InvalidState
from services.billing.domain.catalog import FREE_PLAN, Plan
from services.billing.domain.periods import nth_start
from services.billing.domain.subscriptions import PaymentStanding, Subscription, SubscriptionStatus
from services.billing.domain.timeline import Phase, PlanRef, Timeline


class ChangeTime(Enum):
    """When a change takes effect."""

    AT_ONCE = "AT_ONCE"
    AT_PERIOD_END = "AT_PERIOD_END"
    """When what is paid in advance ends."""


class Command(Enum):
    """What can be asked of a subscription. The values are verbs, as a refusal says them."""

    CHANGE_PLAN = "change the plan of"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


_TICK = timedelta(microseconds=1)
_Status = SubscriptionStatus
_MAY: dict[Command, frozenset[SubscriptionStatus]] = {
    # Who owes settles first: more to use, or nothing to pay while it is paused, is not for who did not pay.
    Command.CHANGE_PLAN: frozenset({_Status.TRIALING, _Status.ACTIVE, _Status.PAST_DUE, _Status.PAUSED}),
    Command.PAUSE: frozenset({_Status.TRIALING, _Status.ACTIVE}),
    Command.RESUME: frozenset(_Status) - {_Status.CANCELED},
    Command.CANCEL: frozenset(_Status) - {_Status.CANCELED},
}


def require_allowed(command: Command, status: SubscriptionStatus) -> None:
    """Raises InvalidState when a subscription of that status cannot be asked so."""
    if status not in _MAY[command]:
        raise InvalidState(problem=f"Cannot {command.value} a subscription that is {status.value}.")


def require_billed_plan(plan_id: str) -> None:
    """Raises InvalidField for `free`: one gets there by canceling."""
    if plan_id == FREE_PLAN:
        raise InvalidField(field="plan_id", problem=f"cancel the subscription to be on {FREE_PLAN!r}")


def is_at_once(change_time: ChangeTime | None, current: Plan, wanted: Plan, currency_code: str) -> bool:
    """Whether a change of plan takes effect now. Where nothing is said: who will pay more a month gets more now; who
    will pay less has paid for what he has. Raises CurrencyNotOffered.
    """
    rises = _monthly_base(wanted, currency_code) > _monthly_base(current, currency_code)
    return rises if change_time is None else change_time is ChangeTime.AT_ONCE


def _monthly_base(plan: Plan, currency_code: str) -> Fraction:
    return Fraction(plan.book(currency_code).base_price.minor, plan.interval.months)


def begin(
    subscription_id: str, plan: PlanRef, *, currency_code: str, start: datetime, trial_days: int, opening: datetime
) -> Timeline:
    """A new subscription's timeline: open, and on one plan. A trial comes before the first period. opening: when its
    opening is invoiced.
    """
    anchor = start + timedelta(days=trial_days)
    first = Phase(start=start, plan=plan, is_trial=start < anchor)
    return _trial_ended(
        Timeline(
            subscription_id=subscription_id,
            currency_code=currency_code,
            start=start,
            anchor=anchor,
            end=None,
            phases=(first,),
            opening=opening,
        )
    )


def status_at(timeline: Timeline, standing: PaymentStanding, moment: datetime) -> SubscriptionStatus:
    """Where the subscription stands. Of several truths the one that denies most is told."""
    phase = timeline.phase_at(moment)
    if has_ended(timeline, moment):
        return SubscriptionStatus.CANCELED
    if standing is PaymentStanding.SUSPENDED:
        return SubscriptionStatus.SUSPENDED
    if phase.is_paused:
        return SubscriptionStatus.PAUSED
    if standing is PaymentStanding.PAST_DUE:
        return SubscriptionStatus.PAST_DUE
    return SubscriptionStatus.TRIALING if phase.is_trial else SubscriptionStatus.ACTIVE


def as_of(timeline: Timeline, standing: PaymentStanding, moment: datetime, *, organization_id: str) -> Subscription:
    """The subscription in force as its timeline has it at the moment; what only the books know of it is left empty. One
    whose end has passed is in force as it was last, and due, until another takes its place: never is there none.
    """
    if timeline.end is not None:
        moment = min(moment, timeline.end - _TICK)
    plan = timeline.phase_at(moment).plan
    return Subscription(
        subscription_id=timeline.subscription_id,
        organization_id=organization_id,
        plan_id=plan.plan_id,
        plan_version=plan.version,
        custom_id=plan.custom_id,
        currency_code=timeline.currency_code,
        status=status_at(timeline, standing, moment),
        standing=standing,
        start=timeline.start,
        anchor=timeline.anchor,
        next_change_time=next_change(timeline, moment),
    )


def entitles_alike(one: Subscription, other: Subscription) -> bool:
    """Whether both let the same be used: nobody needs to be told of the difference."""
    return _entitlement(one) == _entitlement(other)


def _entitlement(subscription: Subscription) -> tuple[object, ...]:
    return subscription.plan_id, subscription.plan_version, subscription.custom_id, subscription.status


def has_ended(timeline: Timeline, moment: datetime) -> bool:
    """Whether the subscription is over at the moment."""
    return timeline.end is not None and timeline.end <= moment


def next_change(timeline: Timeline, after: datetime) -> datetime | None:
    """When the first phase begins after the moment, or the end comes; None: nothing is scheduled."""
    ends = [] if timeline.end is None else [timeline.end]
    return min((each for each in [*(phase.start for phase in timeline.phases), *ends] if each > after), default=None)


def scheduled_plan(timeline: Timeline, now: datetime) -> Phase | None:
    """The phase in the future from which on another plan holds; None: no change of plan is scheduled."""
    current = timeline.phase_at(now).plan
    coming = (phase for phase in timeline.phases if phase.start > now and phase.plan != current)
    return next(coming, None)


def paid_until(timeline: Timeline, now: datetime, *, interval_months: int) -> datetime:
    """The end of what is paid in advance at the moment: of the trial, or of the period or year that holds it."""
    period = timeline.period_at(now)
    if period.end <= timeline.anchor or interval_months == 1:
        return period.end
    months = interval_months
    while nth_start(timeline.anchor, months) <= now:
        months += interval_months
    return nth_start(timeline.anchor, months)


def change_plan(timeline: Timeline, plan: PlanRef, *, now: datetime, at: datetime) -> Timeline:
    """Another plan from `at` on, which is now or later. Replaces a change that was scheduled, and a cancellation that
    was scheduled for no earlier than that. The plan that is in force already takes a scheduled change back.
    """
    current = timeline.phase_at(now)
    end = None if timeline.end is not None and timeline.end <= at else timeline.end
    # What was scheduled is forgotten: the boundaries that remain are those of the trial.
    unscheduled = [phase if phase.start <= now else replace(phase, plan=current.plan) for phase in timeline.phases]
    whole = _trial_ended(replace(timeline, end=end, phases=tuple(unscheduled)))
    return replace(whole, phases=_from(whole.phases, at, now=now, plan=plan))


def pause(timeline: Timeline, *, now: datetime) -> Timeline:
    """Paused from now on, whatever plan is in force or scheduled."""
    return replace(timeline, phases=_from(timeline.phases, now, now=now, is_paused=True))


def resume(timeline: Timeline, *, now: datetime) -> Timeline:
    """Neither paused from now on nor canceled later. Raises InvalidState when it was neither."""
    if not timeline.phase_at(now).is_paused and timeline.end is None:
        raise InvalidState(problem="The subscription is neither paused nor about to be canceled.")
    whole = _trial_ended(replace(timeline, end=None))
    return replace(whole, phases=_from(whole.phases, now, now=now, is_paused=False))


def cancel(timeline: Timeline, *, now: datetime, at: datetime) -> Timeline:
    """Ends at `at`, which is now or later. Replaces whatever was scheduled for no earlier than that."""
    end = max(at, timeline.start)
    kept = tuple(phase for phase in timeline.phases if phase.start < end or phase.start <= now)
    return replace(timeline, end=end, phases=kept or timeline.phases[:1])


def ended(timeline: Timeline, successor: Timeline) -> Timeline:
    """The timeline of a subscription that another one takes the place of: two are never in force at one instant."""
    at = max(timeline.start, successor.start)
    return timeline if timeline.end is not None and timeline.end <= at else cancel(timeline, now=timeline.start, at=at)


def _trial_ended(timeline: Timeline) -> Timeline:
    # A cancellation at the trial's end takes the phase after it away; whoever takes it back needs that phase again.
    last = timeline.phases[-1]
    if not last.is_trial or timeline.end is not None:
        return timeline
    return replace(timeline, phases=(*timeline.phases, replace(last, start=timeline.anchor, is_trial=False)))


def _from(
    phases: Sequence[Phase], at: datetime, *, now: datetime, plan: PlanRef | None = None, is_paused: bool | None = None
) -> tuple[Phase, ...]:
    """The phases with other terms from a moment on: the boundaries after it stay."""

    def changed(phase: Phase, start: datetime) -> Phase:
        return replace(
            phase,
            start=start,
            plan=phase.plan if plan is None else plan,
            is_paused=phase.is_paused if is_paused is None else is_paused,
        )

    before = [phase for phase in phases if phase.start < at]
    after = [phase for phase in phases if phase.start >= at]
    if before and (not after or after[0].start > at):
        after = [replace(before[-1], start=at), *after]
    return _tidy([*before, *(changed(phase, phase.start) for phase in after)], now)


def _tidy(phases: Iterable[Phase], now: datetime) -> tuple[Phase, ...]:
    # A boundary between equal terms is none; one that has passed stays, for it was told to others.
    tidy: list[Phase] = []
    for phase in phases:
        if tidy and phase.start >= now and replace(phase, start=tidy[-1].start) == tidy[-1]:
            continue
        tidy.append(phase)
    return tuple(tidy)
