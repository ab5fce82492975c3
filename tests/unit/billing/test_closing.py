"""When what is invoiced, and which usage no invoice needs any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kit.testing.clock import FakeClock
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.catalog import MemoryPlans
from services.billing.application.confirm_usage import ConfirmUsage
from services.billing.application.find_plan import FindPlan
from services.billing.application.ports.usage import LedgerHead
from services.billing.domain import limits
from services.billing.domain.closing import (
    Close,
    Closing,
    Cut,
    CutKind,
    InvoicedUsage,
    cut_by_hand,
    invoiced_usage,
    next_cut,
    scope_of,
)
from services.billing.domain.periods import nth_start
from services.billing.domain.timeline import Timeline
from tests.unit.billing.plans import PLANS
from tests.unit.billing.timelines import begun, by_tests

NOW = datetime(2026, 6, 20, tzinfo=UTC)
ANCHOR = datetime(2026, 1, 31, 10, 30, tzinfo=UTC)
RECENT = NOW - limits.START_BACK
"""What a subscription that is still to be made may reach back to."""


WAIT = limits.CLOSE_AFTER


def start(month: int) -> datetime:
    return nth_start(ANCHOR, month)


def timeline(end: datetime | None = None) -> Timeline:
    return replace(begun("starter", start=ANCHOR, subscription_id="sub"), end=end)


def close(kind: CutKind, month: int, through: int, ordinal: int = 0) -> Close:
    return Close(cut=Cut(kind, nth_start(ANCHOR, month), ordinal), through_sequence=through, invoice_id="inv")


def closing(*closed_through: int, end: datetime | None = None) -> Closing:
    """With its opening and so many periods closed, from the first on."""
    periods = [close(CutKind.PERIOD, month, through) for month, through in enumerate(closed_through)]
    return Closing(timeline=timeline(end), closes=(close(CutKind.OPENING, 0, 0), *periods))


def scheduled(timeline: Timeline, *made: Cut) -> list[tuple[CutKind, datetime, datetime]]:
    """All cuts that come by themselves after those, each made when it is due; at most four."""
    coming: list[tuple[CutKind, datetime, datetime]] = []
    cuts = set(made)
    while len(coming) < 4 and (following := next_cut(timeline, cuts)) is not None:
        coming.append((following.cut.kind, following.cut.period_start, following.at))
        cuts.add(following.cut)
    return coming


def test_the_opening_comes_first_and_then_each_period_half_an_hour_after_its_end() -> None:
    assert scheduled(timeline()) == [
        (CutKind.OPENING, start(0), ANCHOR),
        (CutKind.PERIOD, start(0), start(1) + WAIT),
        (CutKind.PERIOD, start(1), start(2) + WAIT),
        (CutKind.PERIOD, start(2), start(3) + WAIT),
    ]


def test_no_period_that_was_over_at_the_making_is_closed_before_the_opening() -> None:
    made_late = replace(timeline(), opening=start(2) + timedelta(days=9))
    assert [(kind, at) for kind, _, at in scheduled(made_late)][:3] == [
        (CutKind.OPENING, made_late.opening),
        (CutKind.PERIOD, made_late.opening),
        (CutKind.PERIOD, made_late.opening),
    ]


@pytest.mark.parametrize("end", [start(2), start(2) - timedelta(days=3), start(1) + timedelta(microseconds=1)])
def test_the_period_in_which_it_ends_has_two_final_cuts_and_nothing_follows(end: datetime) -> None:
    assert scheduled(timeline(end)) == [
        (CutKind.OPENING, start(0), ANCHOR),
        (CutKind.PERIOD, start(0), start(1) + WAIT),
        (CutKind.FINAL, start(1), end + WAIT),
        (CutKind.FINAL, start(1), end + WAIT + limits.START_BACK),
    ]


def test_a_trial_that_ends_at_another_time_than_it_was_to_end_is_opened_once() -> None:
    trial = begun("starter", start=ANCHOR, trial_days=14)
    shorter = replace(trial, anchor=ANCHOR + timedelta(days=3))
    assert scheduled(shorter, Cut(CutKind.OPENING, ANCHOR))[0][0] is CutKind.PERIOD


def test_a_close_by_hand_is_early_while_the_period_goes_on_and_another_look_when_it_was_closed() -> None:
    open_period, last = timeline().period_at(start(1)), timeline(start(2)).period_at(start(1))
    by_itself = Cut(CutKind.PERIOD, start(1))
    first_look = Cut(CutKind.RERATED, start(1))
    tick = timedelta(microseconds=1)
    assert cut_by_hand(timeline(), [], open_period, start(2) - tick) == Cut(CutKind.EARLY, start(1))
    assert cut_by_hand(timeline(), [], open_period, start(2)) == by_itself
    assert cut_by_hand(timeline(), [by_itself], open_period, start(2)) == first_look
    assert cut_by_hand(timeline(), [by_itself, first_look], open_period, start(2)) == replace(first_look, ordinal=1)
    assert cut_by_hand(timeline(start(2)), [], last, start(2)) == Cut(CutKind.FINAL, start(1))


def test_a_cut_looks_back_until_nothing_more_can_come() -> None:
    """What of a period is recorded after one cut is in the scope of a later one, as long as usage is accepted back."""
    for month in range(40):
        ended = timeline().period_at(start(month))
        last_event = ended.end + limits.START_BACK
        looking = [Cut(CutKind.PERIOD, start(later)) for later in range(month, month + 4)]
        after = [cut for cut in looking if timeline().period_at(cut.period_start).end + WAIT >= last_event]
        assert ended in scope_of(timeline(), after[0]).periods


def test_a_period_without_an_invoice_keeps_its_events_whatever_their_sequence() -> None:
    """And the two before it, in which a difference may still be found."""
    late = NOW + timedelta(days=200)
    assert invoiced_usage([closing(10, 25)], head=90, now=late) == InvoicedUsage(25, start(0))
    assert invoiced_usage([closing(10, 25, 40, 55)], head=90, now=late) == InvoicedUsage(55, start(2))


def test_events_after_the_last_close_are_kept_whenever_they_happened() -> None:
    """They become an adjustment."""
    closed = [closing(10, 25, 40, 55, 70)]
    assert invoiced_usage(closed, head=90, now=NOW) == InvoicedUsage(70, start(3))


def test_nothing_is_invoiced_before_the_first_close() -> None:
    assert invoiced_usage([closing()], head=90, now=NOW) == InvoicedUsage(0, ANCHOR)


def test_without_a_subscription_that_bills_usage_only_what_a_new_one_may_reach_is_kept() -> None:
    assert invoiced_usage([], head=90, now=NOW) == InvoicedUsage(90, RECENT)


def test_a_period_that_was_left_out_is_not_passed() -> None:
    gap = Closing(timeline=timeline(), closes=(close(CutKind.PERIOD, 0, 10), close(CutKind.PERIOD, 2, 40)))
    assert invoiced_usage([gap], head=90, now=NOW).before == start(0)
    assert gap.needed_from() == start(0)


def test_an_early_close_lets_nothing_go() -> None:
    early = Closing(timeline=timeline(), closes=(close(CutKind.EARLY, 0, 40),))
    assert invoiced_usage([early], head=90, now=NOW) == InvoicedUsage(40, ANCHOR)


def test_an_ended_subscription_holds_nothing_after_its_last_final_cut() -> None:
    end = start(1) + timedelta(days=3)
    once = closing(10, end=end)
    first, second = close(CutKind.FINAL, 1, 25), close(CutKind.FINAL, 1, 40, ordinal=1)
    assert once.needed_from() == start(0)
    assert replace(once, closes=(*once.closes, first)).needed_from() == start(0)
    ended = replace(once, closes=(*once.closes, first, second))
    assert ended.needed_from() is None
    assert invoiced_usage([ended], head=90, now=NOW) == InvoicedUsage(90, RECENT)


def test_the_earliest_open_period_of_all_subscriptions_counts() -> None:
    ended = closing(10, end=start(2))
    assert invoiced_usage([closing(10, 25, 40, 55), ended], head=90, now=NOW).before == start(0)


class Ledger:
    """What billing says of it."""

    def __init__(self) -> None:
        self.said: dict[str, InvoicedUsage] = {}

    async def watch(self) -> AsyncIterator[Sequence[LedgerHead]]:
        yield ()

    async def confirm(self, invoiced: Mapping[str, InvoicedUsage]) -> None:
        self.said |= invoiced


async def test_every_ledger_is_confirmed_by_its_own_books() -> None:
    books, plans, ledger = MemoryBooks(), MemoryPlans(), Ledger()
    await plans.apply(PLANS, request_id="r", digest=b"d", actor="tests")
    for organization_id, plan_id in (("free", "free"), ("paying", "starter"), ("closed", "starter")):
        async with books.open(organization_id) as book:
            timeline = begun(plan_id, start=ANCHOR, subscription_id=f"sub-{organization_id}")
            sold = await book.subscriptions.begin(timeline, by_tests(NOW))
            if organization_id == "closed":
                await book.closes.add(sold.subscription_id, close(CutKind.PERIOD, 0, 25), at=NOW)
    confirm_usage = ConfirmUsage(books, FindPlan(books, plans), ledger, FakeClock(NOW))
    await confirm_usage([LedgerHead(name, 90) for name in ("free", "paying", "closed", "unheard-of")])
    assert ledger.said == {
        "free": InvoicedUsage(90, RECENT),
        "paying": InvoicedUsage(0, ANCHOR),
        "closed": InvoicedUsage(25, ANCHOR),
        "unheard-of": InvoicedUsage(90, RECENT),
    }
