"""Which usage no invoice needs any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from kit.money import Money
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.catalog import MemoryPlans
from services.billing.application.confirm_usage import ConfirmUsage
from services.billing.application.ports.usage import LedgerHead
from services.billing.domain import limits
from services.billing.domain.closing import Closing, InvoicedUsage, invoiced_usage
from services.billing.domain.invoices import Invoice, InvoiceState
from services.billing.domain.periods import nth_start, period_at
from services.billing.domain.subscriptions import Subscription
from tests.unit.billing.plans import PLANS
from tests.unit.billing.timelines import begun, by_tests

NOW = datetime(2026, 6, 20, tzinfo=UTC)
ANCHOR = datetime(2026, 1, 31, 10, 30, tzinfo=UTC)
RECENT = NOW - limits.START_BACK
"""What a subscription that is still to be made may reach back to."""


def closing(*closed_through: int, end: datetime | None = None) -> Closing:
    """With so many periods closed, from the first on."""
    closed = {nth_start(ANCHOR, month): through for month, through in enumerate(closed_through)}
    return Closing(plan_id="starter", plan_version=1, anchor=ANCHOR, end_time=end, closed_through=closed)


def test_a_period_without_an_invoice_keeps_its_events_whatever_their_sequence() -> None:
    assert invoiced_usage([closing(10, 25)], head=90, now=NOW) == InvoicedUsage(25, nth_start(ANCHOR, 2))


def test_events_after_the_last_close_are_kept_whenever_they_happened() -> None:
    """They become an adjustment."""
    closed = [closing(10, 25, 40, 55, 70)]
    assert invoiced_usage(closed, head=90, now=NOW) == InvoicedUsage(70, RECENT)


def test_nothing_is_invoiced_before_the_first_close() -> None:
    assert invoiced_usage([closing()], head=90, now=NOW) == InvoicedUsage(0, ANCHOR)


def test_without_a_subscription_that_bills_usage_only_what_a_new_one_may_reach_is_kept() -> None:
    assert invoiced_usage([], head=90, now=NOW) == InvoicedUsage(90, RECENT)


def test_a_period_that_was_left_out_is_not_passed() -> None:
    gap = Closing(
        plan_id="starter",
        plan_version=1,
        anchor=ANCHOR,
        end_time=None,
        closed_through={nth_start(ANCHOR, 0): 10, nth_start(ANCHOR, 2): 40},
    )
    assert invoiced_usage([gap], head=90, now=NOW).before == nth_start(ANCHOR, 1)


def test_a_subscription_that_ended_needs_an_invoice_of_each_period_that_it_began() -> None:
    end = nth_start(ANCHOR, 1) + timedelta(days=3)
    assert closing(10, end=end).first_open() == nth_start(ANCHOR, 1)
    assert closing(10, 25, end=end).first_open() is None
    assert closing(10, end=nth_start(ANCHOR, 1)).first_open() is None


def test_the_earliest_open_period_of_all_subscriptions_counts() -> None:
    ended = closing(10, end=nth_start(ANCHOR, 2))
    assert invoiced_usage([closing(10, 25, 40), ended], head=90, now=NOW).before == nth_start(ANCHOR, 1)


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
                await book.invoices.finalize(invoice(sold, 25), actor="tests", request_id="r")
    confirm_usage = ConfirmUsage(books, plans, ledger, FakeClock(NOW))
    await confirm_usage([LedgerHead(name, 90) for name in ("free", "paying", "closed", "unheard-of")])
    assert ledger.said == {
        "free": InvoicedUsage(90, RECENT),
        "paying": InvoicedUsage(0, ANCHOR),
        "closed": InvoicedUsage(25, nth_start(ANCHOR, 1)),
        "unheard-of": InvoicedUsage(90, RECENT),
    }


def invoice(sold: Subscription, closed_through: int) -> Invoice:
    return Invoice(
        organization_id=sold.organization_id,
        subscription_id=sold.subscription_id,
        plan_id=sold.plan_id,
        plan_version=1,
        state=InvoiceState.FINALIZED,
        total=Money(0, "USD"),
        lines=(),
        period=period_at(sold.anchor, sold.anchor),
        closed_through_sequence=closed_through,
        invoice_id="inv-1",
        finalize_time=NOW,
    )
