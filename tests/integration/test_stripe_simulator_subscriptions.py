"""The Stripe stand-in's subscriptions, in the time of test clocks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stripe_stand_in import DAY, HOUR, START, StandIn, running_stand_in
from tools.stripe_simulator.intervals import boundary, first_boundary_after

FAILS = "pm_card_chargeCustomerFail"
MARCH_31 = int(datetime(2028, 1, 31, 10, tzinfo=UTC).timestamp())


@pytest.fixture
async def stripe(tmp_path: Path) -> AsyncIterator[StandIn]:
    async with running_stand_in(tmp_path) as stand_in:
        yield stand_in


async def price_of(stripe: StandIn, amount: int = 4900, **recurring: Any) -> str:
    price = await stripe.post(
        "/v1/prices",
        currency="usd",
        unit_amount=amount,
        recurring={"interval": "month", **recurring},
        product_data={"name": "Starter"},
    )
    return str(price["id"])


class Clocked:
    """A customer who lives in the time of a test clock, and is sold one subscription."""

    def __init__(self, stripe: StandIn, clock: Any, customer: str) -> None:
        self.stripe = stripe
        self.clock = clock["id"]
        self.now = clock["frozen_time"]
        self.customer = customer

    async def subscribe(self, **params: Any) -> Any:
        items = params.pop("items", None) or [{"price": await price_of(self.stripe)}]
        return await self.stripe.post("/v1/subscriptions", customer=self.customer, items=items, **params)

    async def advance_to(self, moment: int) -> None:
        path = f"/v1/test_helpers/test_clocks/{self.clock}"
        assert (await self.stripe.post(f"{path}/advance", frozen_time=moment))["status"] == "advancing"
        assert (await self.stripe.get(path))["status"] == "ready"
        self.now = moment

    async def subscription(self) -> Any:
        found = await self.stripe.get("/v1/subscriptions", customer=self.customer, status="all")
        return found["data"][0]

    async def invoices(self) -> list[Any]:
        """The oldest first."""
        return list((await self.stripe.get("/v1/invoices", customer=self.customer, limit=100))["data"])[::-1]


async def clocked(stripe: StandIn, card: str | None = "pm_card_visa", *, at: int | None = None) -> Clocked:
    clock = await stripe.post("/v1/test_helpers/test_clocks", frozen_time=at or int(START.timestamp()), name="t")
    customer = await stripe.customer(card, test_clock=clock["id"])
    return Clocked(stripe, clock, customer["id"])


def item_period(subscription: Any) -> tuple[int, int]:
    item = subscription["items"]["data"][0]
    return item["current_period_start"], item["current_period_end"]


def types_of(events: list[Any], prefix: str) -> list[str]:
    return [event["type"] for event in events if event["type"].startswith(prefix)]


# ---- beginning


async def test_a_subscription_is_billed_at_once_and_active_when_that_is_paid(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    sold = await scene.subscribe(metadata={"organization_id": "acme"})
    assert (sold["status"], sold["created"]) == ("active", scene.now)
    assert "current_period_end" not in sold
    assert item_period(sold) == (scene.now, int(datetime(2026, 2, 28, 12, tzinfo=UTC).timestamp()))
    invoice = await stripe.get(f"/v1/invoices/{sold['latest_invoice']}")
    assert (invoice["status"], invoice["total"], invoice["billing_reason"]) == ("paid", 4900, "subscription_create")
    details = invoice["parent"]["subscription_details"]
    assert details == {"metadata": {"organization_id": "acme"}, "subscription": sold["id"]}
    line = invoice["lines"]["data"][0]
    assert line["parent"]["subscription_item_details"]["subscription_item"] == sold["items"]["data"][0]["id"]
    assert (line["period"]["start"], line["period"]["end"]) == item_period(sold)
    assert types_of(await stripe.events(), "customer.subscription") == [
        "customer.subscription.created",
        "customer.subscription.updated",
        "customer.subscription.updated",
    ]


async def test_a_first_payment_that_fails_leaves_it_incomplete_and_it_expires_after_23_hours(stripe: StandIn) -> None:
    scene = await clocked(stripe, FAILS)
    sold = await scene.subscribe()
    assert sold["status"] == "incomplete"
    assert (await scene.invoices())[0]["next_payment_attempt"] is None
    await scene.advance_to(scene.now + 23 * 3_600)
    assert (await scene.subscription())["status"] == "incomplete_expired"
    assert (await scene.invoices())[0]["status"] == "void"


async def test_paying_the_first_invoice_activates_it(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    sold = await scene.subscribe(payment_behavior="default_incomplete")
    assert sold["status"] == "incomplete"
    assert (await scene.invoices())[0]["status"] == "open"
    await stripe.post(f"/v1/invoices/{sold['latest_invoice']}/pay")
    assert (await scene.subscription())["status"] == "active"


async def test_a_subscription_that_may_not_be_incomplete_is_refused_whole(stripe: StandIn) -> None:
    scene = await clocked(stripe, FAILS)
    refused = await stripe.refused(
        "POST",
        "/v1/subscriptions",
        customer=scene.customer,
        items=[{"price": await price_of(stripe)}],
        payment_behavior="error_if_incomplete",
    )
    assert (refused["status"], refused["code"]) == (402, "card_declined")
    assert await scene.invoices() == []


async def test_what_is_charged_at_once_needs_a_payment_method(stripe: StandIn) -> None:
    scene = await clocked(stripe, None)
    items = [{"price": await price_of(stripe)}]
    refused = await stripe.refused("POST", "/v1/subscriptions", customer=scene.customer, items=items)
    assert (refused["status"], refused["code"]) == (400, "resource_missing")
    free = [{"price": await price_of(stripe, 0)}]
    sold = await stripe.post("/v1/subscriptions", customer=scene.customer, items=free)
    assert sold["status"] == "active"


async def test_a_subscription_that_was_sent_may_be_charged_from_now_on(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    sold = await scene.subscribe(collection_method="send_invoice", days_until_due=7)
    changed = await stripe.post(f"/v1/subscriptions/{sold['id']}", collection_method="charge_automatically")
    assert changed["days_until_due"] is None
    await scene.advance_to(item_period(changed)[1] + 3_600)
    assert [invoice["status"] for invoice in await scene.invoices()] == ["open", "paid"]


# ---- periods and renewal


async def test_each_period_boundary_drafts_an_invoice_that_is_finalized_an_hour_later(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    sold = await scene.subscribe()
    end = item_period(sold)[1]
    await scene.advance_to(end)
    renewed = await scene.subscription()
    assert item_period(renewed) == (end, int(datetime(2026, 3, 31, 12, tzinfo=UTC).timestamp()))
    draft = (await scene.invoices())[1]
    assert (draft["status"], draft["auto_advance"], draft["billing_reason"]) == ("draft", True, "subscription_cycle")
    assert (draft["created"], draft["automatically_finalizes_at"]) == (end, end + 3_600)
    assert renewed["latest_invoice"] == draft["id"]
    await scene.advance_to(end + 3_599)
    assert (await scene.invoices())[1]["status"] == "draft"
    await scene.advance_to(end + 3_600)
    paid = (await scene.invoices())[1]
    assert (paid["status"], paid["status_transitions"]["paid_at"]) == ("paid", end + 3_600)


async def test_a_draft_that_is_held_takes_our_lines_and_waits_for_us(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    end = item_period(await scene.subscribe())[1]
    await scene.advance_to(end)
    draft = (await scene.invoices())[1]
    held = await stripe.post(f"/v1/invoices/{draft['id']}", auto_advance=False, number="TB-7")
    assert held["automatically_finalizes_at"] is None
    await stripe.post(f"/v1/invoices/{draft['id']}/add_lines", lines=[{"amount": 500, "description": "overage"}])
    theirs = {"id": draft["lines"]["data"][0]["id"], "behavior": "delete"}
    less = await stripe.post(f"/v1/invoices/{draft['id']}/remove_lines", lines=[theirs])
    assert less["total"] == 500
    await scene.advance_to(end + 20 * 86_400)
    assert (await scene.invoices())[1]["status"] == "draft"
    finalized = await stripe.post(f"/v1/invoices/{draft['id']}/finalize", auto_advance=True)
    assert (finalized["status"], finalized["total"], finalized["number"]) == ("paid", 500, "TB-7")


async def test_pending_items_are_on_the_next_renewal(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    end = item_period(await scene.subscribe())[1]
    await stripe.post("/v1/invoiceitems", customer=scene.customer, amount=700, currency="usd")
    await scene.advance_to(end)
    assert [line["amount"] for line in (await scene.invoices())[1]["lines"]["data"]] == [4900, 700]


async def test_a_year_of_renewals_tiles_from_the_31st_through_a_leap_february(stripe: StandIn) -> None:
    scene = await clocked(stripe, at=MARCH_31)
    await scene.subscribe()
    periods = []
    for _ in range(12):
        periods.append(item_period(await scene.subscription()))
        await scene.advance_to(periods[-1][1])
    assert all(earlier[1] == later[0] for earlier, later in pairwise(periods))
    ends = [datetime.fromtimestamp(end, UTC) for _, end in periods]
    assert [end.day for end in ends[:4]] == [29, 31, 30, 31]
    assert len(await scene.invoices()) == 13


@pytest.mark.parametrize(("interval", "count"), [("day", 10), ("week", 2), ("month", 1), ("month", 3), ("year", 1)])
def test_every_moment_lies_in_the_one_period_that_its_next_boundary_ends(interval: str, count: int) -> None:
    anchor = MARCH_31
    bounds = [boundary(anchor, interval=interval, interval_count=count, index=index) for index in range(40)]
    for earlier, later in pairwise(bounds):
        for moment in (earlier, earlier + 1, later - 1):
            found = first_boundary_after(anchor, interval=interval, interval_count=count, moment=moment)
            assert found == later
    assert first_boundary_after(anchor, interval=interval, interval_count=count, moment=anchor - 1) == anchor


async def test_an_anchor_to_come_gives_a_free_period_until_then(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    anchor = scene.now + 5 * 86_400
    sold = await scene.subscribe(billing_cycle_anchor=anchor, proration_behavior="none")
    assert (sold["status"], item_period(sold)) == ("active", (scene.now, anchor))
    assert await scene.invoices() == []
    await scene.advance_to(anchor)
    assert [invoice["total"] for invoice in await scene.invoices()] == [4900]


# ---- trials


async def test_a_trial_costs_nothing_is_announced_before_its_end_and_then_billed(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    sold = await scene.subscribe(trial_period_days=14)
    trial_end = scene.now + 14 * 86_400
    assert (sold["status"], sold["trial_end"], item_period(sold)[1]) == ("trialing", trial_end, trial_end)
    assert [(invoice["total"], invoice["status"]) for invoice in await scene.invoices()] == [(0, "paid")]
    await scene.advance_to(trial_end - 3 * 86_400 - 1)
    assert "customer.subscription.trial_will_end" not in await stripe.event_types()
    await scene.advance_to(trial_end - 3 * 86_400)
    assert "customer.subscription.trial_will_end" in await stripe.event_types()
    await scene.advance_to(trial_end + 3_600)
    assert (await scene.subscription())["status"] == "active"
    assert [invoice["total"] for invoice in await scene.invoices()] == [0, 4900]


@pytest.mark.parametrize(
    ("behavior", "status"), [("cancel", "canceled"), ("pause", "paused"), ("create_invoice", "active")]
)
async def test_a_trial_that_ends_without_a_card_goes_as_it_was_told(
    stripe: StandIn, behavior: str, status: str
) -> None:
    scene = await clocked(stripe, None)
    settings = {"end_behavior": {"missing_payment_method": behavior}}
    sold = await scene.subscribe(trial_period_days=7, trial_settings=settings)
    await scene.advance_to(sold["trial_end"])
    assert (await scene.subscription())["status"] == status
    if status == "paused":
        assert "customer.subscription.paused" in await stripe.event_types()
        method = await stripe.post("/v1/payment_methods/pm_card_visa/attach", customer=scene.customer)
        await stripe.post(f"/v1/subscriptions/{sold['id']}", default_payment_method=method["id"])
        resumed = await stripe.post(f"/v1/subscriptions/{sold['id']}/resume", billing_cycle_anchor="now")
        assert (resumed["status"], item_period(resumed)[0]) == ("active", scene.now)


async def test_a_trial_is_ended_at_once_or_moved(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    sold = await scene.subscribe(trial_period_days=14)
    later = scene.now + 20 * 86_400
    moved = await stripe.post(f"/v1/subscriptions/{sold['id']}", trial_end=later, proration_behavior="none")
    assert (moved["trial_end"], item_period(moved)[1]) == (later, later)
    await scene.advance_to(scene.now + 86_400)
    ended = await stripe.post(f"/v1/subscriptions/{sold['id']}", trial_end="now", proration_behavior="none")
    assert (ended["status"], ended["billing_cycle_anchor"]) == ("active", scene.now)
    assert [invoice["total"] for invoice in await scene.invoices()] == [0, 4900]


# ---- changing and ending


async def test_other_items_count_from_the_next_invoice_on(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    sold = await scene.subscribe()
    item = sold["items"]["data"][0]["id"]
    pro = await price_of(stripe, 14_900)
    await stripe.refused("POST", f"/v1/subscriptions/{sold['id']}", items=[{"id": item, "price": pro}])
    changed = await stripe.post(
        f"/v1/subscriptions/{sold['id']}",
        items=[{"id": item, "price": pro, "quantity": 2}],
        proration_behavior="none",
        metadata={"plan": "pro"},
    )
    assert changed["items"]["data"][0]["price"]["id"] == pro
    assert len(await scene.invoices()) == 1
    await scene.advance_to(item_period(changed)[1])
    assert (await scene.invoices())[1]["total"] == 29_800
    told = [event for event in await stripe.events() if event["type"] == "customer.subscription.updated"]
    assert any("items" in event["data"]["previous_attributes"] for event in told)


@pytest.mark.parametrize(
    ("amount", "interval"), [(4900, "year"), (0, "month")], ids=["another_interval", "from_free_to_paid"]
)
async def test_items_that_recur_otherwise_or_begin_to_cost_are_billed_now(
    stripe: StandIn, amount: int, interval: str
) -> None:
    scene = await clocked(stripe)
    sold = await scene.subscribe(items=[{"price": await price_of(stripe, amount)}])
    await scene.advance_to(scene.now + 5 * 86_400)
    item = {"id": sold["items"]["data"][0]["id"], "price": await price_of(stripe, 99_000, interval=interval)}
    changed = await stripe.post(f"/v1/subscriptions/{sold['id']}", items=[item], proration_behavior="none")
    assert (item_period(changed)[0], changed["billing_cycle_anchor"]) == (scene.now, scene.now)
    assert [invoice["total"] for invoice in await scene.invoices()] == [amount, 99_000]


async def test_what_was_said_about_leaving_can_be_noted_after_the_end(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    path = f"/v1/subscriptions/{(await scene.subscribe())['id']}"
    await stripe.delete(path)
    noted = await stripe.post(path, cancellation_details={"comment": "moved on"}, metadata={"a": "b"})
    assert (noted["status"], noted["cancellation_details"]["comment"]) == ("canceled", "moved on")
    assert (await stripe.refused("POST", path, description="again"))["status"] == 400


async def test_a_sent_invoice_that_is_overdue_leaves_its_subscription_behind_until_it_is_paid(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    sold = await scene.subscribe(collection_method="send_invoice", days_until_due=7)
    assert sold["status"] == "active"
    await scene.advance_to(scene.now + 7 * 86_400)
    assert (await scene.subscription())["status"] == "past_due"
    assert "invoice.overdue" in await stripe.event_types()
    await stripe.post(f"/v1/invoices/{sold['latest_invoice']}/pay", paid_out_of_band=True)
    assert (await scene.subscription())["status"] == "active"


async def test_a_subscription_that_is_canceled_at_its_periods_end_runs_until_then(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    sold = await scene.subscribe()
    end = item_period(sold)[1]
    asked = await stripe.post(f"/v1/subscriptions/{sold['id']}", cancel_at_period_end=True)
    assert (asked["status"], asked["cancel_at"], asked["canceled_at"]) == ("active", end, scene.now)
    back = await stripe.post(f"/v1/subscriptions/{sold['id']}", cancel_at_period_end=False)
    assert (back["cancel_at"], back["canceled_at"]) == (None, None)
    await stripe.post(f"/v1/subscriptions/{sold['id']}", cancel_at_period_end=True)
    await scene.advance_to(end)
    ended = await scene.subscription()
    assert (ended["status"], ended["ended_at"]) == ("canceled", end)
    assert len(await scene.invoices()) == 1
    assert "customer.subscription.deleted" in await stripe.event_types()


async def test_a_subscription_is_canceled_now_or_at_a_time(stripe: StandIn) -> None:
    scene, other = await clocked(stripe), await clocked(stripe)
    sold, timed = await scene.subscribe(), await other.subscribe(cancel_at=int(START.timestamp()) + 86_400)
    ended = await stripe.delete(f"/v1/subscriptions/{sold['id']}", cancellation_details={"feedback": "too_expensive"})
    assert (ended["status"], ended["cancellation_details"]["feedback"]) == ("canceled", "too_expensive")
    assert (await stripe.refused("DELETE", f"/v1/subscriptions/{sold['id']}"))["status"] == 400
    await other.advance_to(timed["cancel_at"])
    assert (await other.subscription())["status"] == "canceled"
    listed = await stripe.get("/v1/subscriptions", customer=scene.customer)
    assert listed["data"] == []


async def test_deleting_a_customer_ends_what_was_sold(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    sold = await scene.subscribe()
    await stripe.delete(f"/v1/customers/{scene.customer}")
    assert (await stripe.get(f"/v1/subscriptions/{sold['id']}"))["status"] == "canceled"


@pytest.mark.parametrize(
    ("behavior", "status"), [("keep_as_draft", "draft"), ("void", "void"), ("mark_uncollectible", "uncollectible")]
)
async def test_while_collection_is_paused_nothing_is_charged(stripe: StandIn, behavior: str, status: str) -> None:
    scene = await clocked(stripe)
    sold = await scene.subscribe()
    end = item_period(sold)[1]
    pause = {"behavior": behavior, "resumes_at": end + 2 * 86_400}
    await stripe.post(f"/v1/subscriptions/{sold['id']}", pause_collection=pause)
    await scene.advance_to(end + 86_400)
    assert (await scene.invoices())[1]["status"] == status
    await scene.advance_to(end + 2 * 86_400)
    assert (await scene.subscription())["pause_collection"] is None


# ---- dunning


@pytest.mark.parametrize("then", ["canceled", "unpaid", "past_due"])
async def test_a_renewal_that_is_never_paid_ends_as_the_settings_say(stripe: StandIn, then: str) -> None:
    await stripe.control("dunning", retry_days=[3, 5], then_invoice="uncollectible", then_subscription=then)
    scene = await clocked(stripe)
    sold = await scene.subscribe()
    await use_card(scene, FAILS)
    end = item_period(sold)[1]
    await scene.advance_to(end + 3_600)
    assert (await scene.subscription())["status"] == "past_due"
    renewal = (await scene.invoices())[1]
    assert (renewal["status"], renewal["next_payment_attempt"]) == ("open", end + 3_600 + 3 * 86_400)
    await scene.advance_to(end + 3_600 + 8 * 86_400)
    assert (await scene.subscription())["status"] == then
    last = (await scene.invoices())[1]
    assert (last["status"], last["attempt_count"]) == ("uncollectible", 3)


async def test_an_unpaid_subscription_drafts_on_and_is_active_when_its_latest_invoice_is_paid(stripe: StandIn) -> None:
    await stripe.control("dunning", retry_days=[], then_subscription="unpaid")
    scene = await clocked(stripe)
    first_end = item_period(await scene.subscribe())[1]
    await use_card(scene, FAILS)
    await scene.advance_to(first_end + 3_600)
    assert (await scene.subscription())["status"] == "unpaid"
    second_end = item_period(await scene.subscription())[1]
    await scene.advance_to(second_end + 86_400)
    latest = (await scene.invoices())[2]
    assert (latest["status"], latest["auto_advance"]) == ("draft", False)
    await use_card(scene, "pm_card_visa")
    await stripe.post(f"/v1/invoices/{latest['id']}/finalize")
    await stripe.post(f"/v1/invoices/{latest['id']}/pay")
    assert (await scene.subscription())["status"] == "active"


async def test_paying_late_brings_a_subscription_back_and_voiding_too(stripe: StandIn) -> None:
    for way in ("pay", "void"):
        scene = await clocked(stripe)
        end = item_period(await scene.subscribe())[1]
        await use_card(scene, FAILS)
        await scene.advance_to(end + 3_600)
        assert (await scene.subscription())["status"] == "past_due"
        await use_card(scene, "pm_card_visa")
        await stripe.post(f"/v1/invoices/{(await scene.invoices())[1]['id']}/{way}")
        assert (await scene.subscription())["status"] == "active"


async def use_card(scene: Clocked, card: str) -> None:
    method = await scene.stripe.post(f"/v1/payment_methods/{card}/attach", customer=scene.customer)
    settings = {"default_payment_method": method["id"]}
    await scene.stripe.post(f"/v1/customers/{scene.customer}", invoice_settings=settings)


# ---- clocks


async def test_a_test_clocks_customers_live_in_its_time_and_others_do_not(stripe: StandIn) -> None:
    scene = await clocked(stripe, at=MARCH_31)
    sold = await scene.subscribe()
    other = await stripe.customer()
    theirs = await stripe.post("/v1/subscriptions", customer=other["id"], items=[{"price": await price_of(stripe)}])
    assert (sold["created"], theirs["created"]) == (MARCH_31, int(START.timestamp()))
    await scene.advance_to(MARCH_31 + 40 * 86_400)
    assert len(await scene.invoices()) == 2
    assert item_period(await stripe.get(f"/v1/subscriptions/{theirs['id']}")) == item_period(theirs)
    await stripe.advance(40 * DAY)
    assert item_period(await stripe.get(f"/v1/subscriptions/{theirs['id']}"))[0] == item_period(theirs)[1]
    assert len(await scene.invoices()) == 2
    assert [customer["id"] for customer in (await stripe.get("/v1/customers"))["data"]] == [other["id"]]
    listed = await stripe.get("/v1/customers", test_clock=scene.clock)
    assert [customer["id"] for customer in listed["data"]] == [scene.customer]


async def test_a_test_clock_goes_forward_only_and_two_intervals_at_most(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    await scene.subscribe()
    path = f"/v1/test_helpers/test_clocks/{scene.clock}/advance"
    for moment in (scene.now, scene.now - 1, scene.now + 70 * 86_400):
        assert (await stripe.refused("POST", path, frozen_time=moment))["param"] == "frozen_time"
    await scene.advance_to(scene.now + 58 * 86_400)
    assert len(await scene.invoices()) == 2


async def test_what_falls_due_while_a_clock_advances_happens_at_its_own_time(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    end = item_period(await scene.subscribe())[1]
    await scene.advance_to(end + 20 * 86_400)
    renewal = (await scene.invoices())[1]
    assert renewal["created"] == end
    assert renewal["status_transitions"]["finalized_at"] == end + 3_600
    events = [event for event in await stripe.events() if event["data"]["object"]["id"] == renewal["id"]]
    assert {event["created"] for event in events} == {end, end + 3_600}
    clock_events = types_of(await stripe.events(), "test_helpers")
    assert clock_events == [
        "test_helpers.test_clock.created",
        "test_helpers.test_clock.advancing",
        "test_helpers.test_clock.ready",
    ]


async def test_deleting_a_test_clock_deletes_its_customers(stripe: StandIn) -> None:
    scene = await clocked(stripe)
    await scene.subscribe()
    await stripe.delete(f"/v1/test_helpers/test_clocks/{scene.clock}")
    assert (await stripe.get(f"/v1/customers/{scene.customer}"))["deleted"]


async def test_everybodys_time_drives_subscriptions_without_a_test_clock(stripe: StandIn) -> None:
    customer = await stripe.customer()
    sold = await stripe.post("/v1/subscriptions", customer=customer["id"], items=[{"price": await price_of(stripe)}])
    await stripe.advance(28 * DAY + HOUR)
    invoices = await stripe.get("/v1/invoices", subscription=sold["id"])
    assert [invoice["status"] for invoice in invoices["data"]] == ["paid", "paid"]
