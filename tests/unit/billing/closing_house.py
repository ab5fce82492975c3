"""Billing's use cases around closing, over any books, with a ledger and a clock that a test moves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from kit.testing.clock import FakeClock
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.catalog import MemoryPlans
from services.billing.adapters.memory.close_list import MemoryCloseList
from services.billing.adapters.memory.organizations import MemoryOrganizations
from services.billing.adapters.memory.usage import MemoryUsage, Used
from services.billing.application.act_on_subscription import ActOnSubscription
from services.billing.application.cancel_subscription import CancelSubscription
from services.billing.application.change_plan import ChangePlan
from services.billing.application.close_billing_period import CloseBillingPeriod
from services.billing.application.close_due_subscriptions import CloseDueSubscriptions
from services.billing.application.create_subscription import CreateSubscription
from services.billing.application.find_plan import FindPlan
from services.billing.application.find_wanted_plan import FindWantedPlan
from services.billing.application.make_cut import MakeCut
from services.billing.application.ports.books import Books
from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.closes import CloseList
from services.billing.application.preview_invoice import PreviewInvoice
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.catalog import Plan
from services.billing.domain.invoices import Invoice
from services.billing.domain.lifecycle import ChangeTime
from tests.unit.billing.plans import METERS, MINUTE, PLANS

ACME = "acme"
START = datetime(2026, 1, 31, 10, tzinfo=UTC)
ORGANIZATIONS = dict.fromkeys([ACME, *(f"org-{number}" for number in range(100))], START - timedelta(days=90))


class Ledger(MemoryUsage):
    """Usage of the meters that tests have."""

    def __init__(self) -> None:
        super().__init__(*METERS.values())

    def use(self, minutes: float, at: datetime, *, organization_id: str = ACME) -> None:
        """Records agent minutes of a moment; below zero reverses as many."""
        self.events[organization_id].append(Used("agent_minutes", int(minutes * MINUTE), at))


@dataclass
class Hands:
    """One process of billing: its own use cases over the shared stores."""

    create: CreateSubscription
    change: ChangePlan
    cancel: CancelSubscription
    close: CloseBillingPeriod
    preview: PreviewInvoice
    close_due: CloseDueSubscriptions


@dataclass
class House:
    """One organization's billing, with the hands of one process or of several."""

    clock: FakeClock
    books: Books
    plans: Plans
    due: CloseList
    usage: Ledger
    hands: Hands
    requests: int = 0

    def request_id(self) -> str:
        """Another one each time."""
        self.requests += 1
        return f"request-{self.requests}"

    async def sell(self, plan_id: str = "starter", *, start: datetime | None = None, trial_days: int = 0) -> str:
        """Puts the organization on a plan; answers the subscription's id."""
        standing = await self.hands.create(
            ACME, plan_id, start_time=start, trial_days=trial_days, request_id=self.request_id(), actor="tests"
        )
        return standing.subscription.subscription_id

    async def change(self, plan_id: str, when: ChangeTime | None = None) -> None:
        """Another plan."""
        await self.hands.change(ACME, plan_id, change_time=when, request_id=self.request_id(), actor="tests")

    async def cancel(self, when: ChangeTime = ChangeTime.AT_PERIOD_END) -> None:
        """The end."""
        await self.hands.cancel(ACME, change_time=when, request_id=self.request_id(), actor="tests")

    async def close(self, *, period_start: datetime | None = None, subscription_id: str = "") -> Invoice | None:
        """Closes by hand."""
        return await self.hands.close(
            ACME,
            period_start=period_start,
            subscription_id=subscription_id,
            request_id=self.request_id(),
            actor="tests",
        )

    async def pass_to(self, moment: datetime) -> None:
        """Time passes, and the worker looks every six hours."""
        while self.clock.now() < moment:
            self.clock.advance(min(moment - self.clock.now(), timedelta(hours=6)))
            await self.work()

    async def work(self) -> None:
        """The worker looks until nothing is due."""
        while await self.hands.close_due():
            pass

    async def invoices(self) -> list[Invoice]:
        """Every invoice, oldest first."""
        async with self.books.read(ACME) as book:
            return list(reversed(await book.invoices.newest_first(before=None, count=1_000)))

    async def charged(self) -> int:
        """What all invoices come to before taxes and credits, in cents."""
        return sum(invoice.subtotal.minor for invoice in await self.invoices())


def hands_of(books: Books, plans: Plans, due: CloseList, usage: Ledger, clock: FakeClock) -> Hands:
    """The use cases of one process."""
    in_force = SubscriptionInForce(books, plans, MemoryOrganizations(ORGANIZATIONS), clock)
    make_cut = MakeCut(books, FindPlan(books, plans), usage, clock)
    find_wanted, act = FindWantedPlan(plans, usage), ActOnSubscription(books, plans, in_force, clock)
    return Hands(
        create=CreateSubscription(books, find_wanted, in_force, clock),
        change=ChangePlan(find_wanted, act),
        cancel=CancelSubscription(act),
        close=CloseBillingPeriod(books, in_force, make_cut, clock),
        preview=PreviewInvoice(books, in_force, make_cut),
        close_due=CloseDueSubscriptions(due, books, make_cut, clock),
    )


async def memory_house(*plans: Plan, books: MemoryBooks | None = None) -> House:
    """With everything in memory; books: those of the test."""
    books = books or MemoryBooks()
    catalog, usage, clock = MemoryPlans(), Ledger(), FakeClock(START)
    due = MemoryCloseList(books)
    await catalog.apply(plans or PLANS, request_id="stock", digest=b"", actor="tests")
    return House(clock, books, catalog, due, usage, hands_of(books, catalog, due, usage, clock))
