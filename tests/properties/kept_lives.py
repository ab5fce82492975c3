"""Random lives of subscriptions in billing's own books: written, used, changed and closed in time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kit.testing.clock import FakeClock
from services.billing.adapters.memory.organizations import MemoryOrganizations
from services.billing.adapters.memory.usage import MemoryUsage, Used
from services.billing.application.close_billing_period import CloseBillingPeriod
from services.billing.application.close_due_subscriptions import CloseDueSubscriptions
from services.billing.application.find_plan import FindPlan
from services.billing.application.make_cut import MakeCut
from services.billing.application.ports.books import Book, Books
from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.closes import CloseList
from services.billing.application.schedule_closes import schedule_closes
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.invoices import Invoice
from services.billing.domain.subscriptions import PaymentStanding
from services.billing.domain.timeline import Phase, PlanRef, Timeline
from tests.properties.billing_lives import METERS, Life, Lived, plan_of
from tests.unit.billing.plans import FREE
from tests.unit.billing.timelines import by_tests

STEP = timedelta(days=5)


@dataclass
class Stores:
    """What a process of billing keeps things in."""

    books: Books
    plans: Plans
    due: CloseList


class Kept:
    """One life, as an organization of its own."""

    def __init__(self, one: Life, stores: Stores) -> None:
        self.one = one
        self.name = f"life-{one.seed}"
        self.lived = Lived(one)
        self.stores = stores
        self.clock = FakeClock(one.case.start)
        self.usage = MemoryUsage(*METERS.values())
        self.arriving = sorted(one.uses, key=lambda use: use.arrival)
        self.make_cut = MakeCut(stores.books, FindPlan(stores.books, stores.plans), self.usage, self.clock)
        in_force = SubscriptionInForce(stores.books, stores.plans, MemoryOrganizations({}), self.clock)
        self.close = CloseBillingPeriod(stores.books, in_force, self.make_cut, self.clock)
        self.close_due = CloseDueSubscriptions(stores.due, stores.books, self.make_cut, self.clock)

    async def live(self) -> list[Invoice]:
        """From the start until its last cut; every invoice of it."""
        case = self.one.case
        wanted = [
            replace(plan_of(plan, case.currency_code), plan_id=self._plan_id(plan.name))
            for plan in {phase.plan.name: phase.plan for phase in case.phases}.values()
        ]
        await self.stores.plans.apply([FREE, *wanted], request_id=self.name, digest=b"", actor="tests")
        async with self.stores.books.open(self.name) as book:
            await book.subscriptions.begin(self.timeline(case.start), by_tests(case.start))
            await schedule_closes(book)
        for moment in self._moments():
            self.clock.advance(moment - self.clock.now())
            await self.at(moment)
        async with self.stores.books.read(self.name) as reader:
            return list(await reader.invoices.newest_first(before=None, count=10_000))

    def timeline(self, now: datetime) -> Timeline:
        """As it is known, with plans of this life's own; of changes at one instant only the last is kept."""
        known = self.lived.timeline(now)
        phases = {phase.start: replace(phase, plan=self._ref(phase)) for phase in known.phases}
        return replace(known, subscription_id=f"sub-{self.name}", phases=tuple(phases.values()))

    def _moments(self) -> list[datetime]:
        one, case = self.one, self.one.case
        last = case.end + timedelta(days=40)
        steps = (case.start + STEP * number for number in range((last - case.start) // STEP + 2))
        return sorted({*one.decisions, one.end_decision, case.end, *one.extra_closes, *steps})

    async def at(self, moment: datetime) -> None:
        """What happens at a moment, the clock being there."""
        while self.arriving and self.arriving[0].arrival <= moment:
            event = self.arriving.pop(0).event
            self.usage.events[self.name].append(Used(event.meter, event.quantity, event.time))
        if moment in (*self.one.decisions, self.one.end_decision, self.one.case.end) and moment > self.one.case.start:
            async with self.stores.books.open(self.name) as book:
                await self._change(book, moment)
        while await self.close_due():
            pass
        for number, extra in enumerate(self.one.extra_closes):
            if extra == moment:
                subscription_id = f"sub-{self.name}"
                await self.close(
                    self.name, subscription_id=subscription_id, request_id=f"close-{number}", actor="tests"
                )

    async def _change(self, book: Book, now: datetime) -> None:
        timeline = self.timeline(now)
        if timeline.end is not None and timeline.end <= now:
            free = Phase(start=timeline.end, plan=PlanRef("free", 1))
            ended = await book.subscriptions.timeline(timeline.subscription_id)
            if ended.end == timeline.end and timeline.end < now:
                return
            follower = replace(
                timeline,
                subscription_id=f"free-{self.name}",
                start=timeline.end,
                anchor=timeline.end,
                end=None,
                phases=(free,),
                opening=timeline.end,
            )
            await book.subscriptions.begin(follower, by_tests(now))
        else:
            await book.subscriptions.change(timeline, PaymentStanding.GOOD, by_tests(now))
        await schedule_closes(book)

    def _ref(self, phase: Phase) -> PlanRef:
        return PlanRef(self._plan_id(phase.plan.plan_id), 1)

    def _plan_id(self, name: str) -> str:
        return f"{self.name}_{name}".replace("-", "_")
