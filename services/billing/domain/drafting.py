"""Drafting: the lines of a cut, from everything that is known of a subscription."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from services.billing.domain.closing import Close, Cut, CutKind, Scope, first_uncharged, scope_of
from services.billing.domain.coupons import Redemption
from services.billing.domain.dues import Due, DueKey, DueKind
from services.billing.domain.invoices import Line
from services.billing.domain.invoicing import Invoiced, difference_lines, discounted
from services.billing.domain.meters import Meter
from services.billing.domain.rating import Counting, Counts, Terms, base_dues, countings, period_dues
from services.billing.domain.timeline import PlanRef, Timeline

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What an organization's books say of one subscription, at one instant."""

    timeline: Timeline
    closes: tuple[Close, ...]
    invoiced: Mapping[DueKey, Invoiced]
    """By key; of what ended longer ago than any cut looks back it may be left out."""
    redemptions: tuple[Redemption, ...] = ()

    def close_of(self, cut: Cut) -> Close | None:
        """How a cut was made; None: it was not."""
        return next((close for close in self.closes if close.cut == cut), None)


def wanted_counts(account: Account, terms: Terms, cut: Cut) -> tuple[Counting, ...]:
    """What has to be counted before a cut can be drafted."""
    return countings(account.timeline, terms, scope_of(account.timeline, cut).periods)


def draft_lines(
    account: Account, terms: Terms, meters: Mapping[str, Meter], counts: Counts, cut: Cut
) -> tuple[Line, ...]:
    """What the cut invoices, before taxes and credits. counts: at least what `wanted_counts` says."""
    scope = _scope(account, terms, cut)
    dues = _dues(account.timeline, terms, meters, counts, scope)
    return difference_lines(
        discounted(account.timeline, dues, account.redemptions),
        account.invoiced,
        scope,
        through_sequence=counts.as_of_sequence,
    )


def plan_of(timeline: Timeline, cut: Cut) -> PlanRef:
    """The terms that an invoice names: the last ones of its period, and for an opening the first ones."""
    if cut.kind is CutKind.OPENING:
        return timeline.phase_at(timeline.start).plan
    return timeline.phase_at(max(cut.period_start, timeline.period_at(cut.period_start).end - _TICK)).plan


def _scope(account: Account, terms: Terms, cut: Cut) -> Scope:
    scope = scope_of(account.timeline, cut)
    if cut.kind is not CutKind.EARLY:
        return scope
    charged = {key.interval for key in account.invoiced if key.kind is DueKind.BASE_FEE}
    intervals = [due.key.interval for due in _base_dues(account.timeline, terms, scope)]
    only = first_uncharged(intervals, charged)
    return replace(scope, base_only=only, base_through=None if only is None else scope.base_through)


def _dues(timeline: Timeline, terms: Terms, meters: Mapping[str, Meter], counts: Counts, scope: Scope) -> Sequence[Due]:
    dues = [due for due in _base_dues(timeline, terms, scope) if scope.holds(due.key)]
    for period in scope.periods:
        dues += period_dues(timeline, terms, meters, period, counts)
    return dues


def _base_dues(timeline: Timeline, terms: Terms, scope: Scope) -> Sequence[Due]:
    if scope.base_through is None:
        return ()
    return base_dues(timeline, terms, after=scope.base_after, through=scope.base_through)
