"""Reconciling with the Stripe stand-in as a process of its own: every kind of drift is seeded, found, and repaired."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kit.errors import DependencyUnavailable, InvalidField, NotFound, RequestIdReused
from kit.ids import new_id
from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.stores import free_port
from services.billing.adapters.memory.usage import MemoryUsage, Used
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_reports import PostgresReports
from services.billing.adapters.stripe.client import StripeApi
from services.billing.adapters.stripe.records import StripeRecords
from services.billing.application.apply_repairs import GONE, REPAIRED, ApplyRepairs
from services.billing.application.close_billing_period import CloseBillingPeriod
from services.billing.application.compare_organization import CompareOrganization
from services.billing.application.find_plan import FindPlan
from services.billing.application.follow_payment import FollowPayment
from services.billing.application.make_cut import MakeCut, Order
from services.billing.application.ports.reconciliation import Found, Report
from services.billing.application.reconcile_billing import ReconcileBilling
from services.billing.domain import limits
from services.billing.domain.closing import next_cut
from services.billing.domain.invoices import Invoice, InvoiceState
from services.billing.domain.reconciliation import DriftKind
from services.billing.domain.timeline import Timeline
from tests.integration.billing_scene import ACME, API_KEY, Scene, Simulator, billing_scene, running_simulator
from tests.unit.billing.plans import METERS, MINUTE
from tests.unit.billing.timelines import begun, by_tests

# Stripe's library passes its body to httpx in a way that httpx has come to discourage; ours to read, not to fix.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CARD = "pm_card_visa"
LATER = limits.RECONCILE_PENDING + timedelta(minutes=1)


@dataclass
class Desk:
    """Where an operator reconciles."""

    scene: Scene
    simulator: Simulator
    usage: MemoryUsage
    reports: PostgresReports
    make_cut: MakeCut
    run: ReconcileBilling
    repair: ApplyRepairs

    async def collected(self, *, months: int = 0, copies: int = 1) -> Invoice:
        """An invoice that is open on both sides, with nothing to be charged by, unless `card` was called."""
        made = await self.scene.finalize(months=months, copies=copies)
        await self.scene.work_until_idle()
        return await self.scene.read(made)

    async def paid(self, *, months: int = 0) -> Invoice:
        """An invoice that was paid by card on both sides."""
        await self.card()
        made = await self.collected(months=months)
        await self.scene.deliver_all(self.simulator)
        paid = await self.scene.read(made)
        assert paid.state is InvoiceState.PAID
        return paid

    async def card(self) -> None:
        await self.scene.customer_with(self.simulator, CARD)

    def tamper(self, stripe_id: str, **fields: Any) -> None:
        self.simulator.call("POST", f"/_simulator/objects/{stripe_id}", json=fields)

    def forget(self, stripe_id: str) -> None:
        self.simulator.call("DELETE", f"/_simulator/objects/{stripe_id}")

    def own(self, statement: str, *values: str) -> None:
        """As the owner of the database, past every rule."""
        with psycopg.connect(self.scene.database.owner_url) as owner:
            owner.execute(statement.encode(), values)

    async def look(self) -> tuple[Report, Sequence[Found]]:
        """A report of everybody, and what it found."""
        report = await self.run(actor="tests")
        async with self.scene.books.read(ACME) as book:
            return report, await book.reconciliation.of_report(report.report_id)

    async def look_later(self) -> tuple[Report, Sequence[Found]]:
        """The same, when nothing can be under way any more."""
        self.scene.clock.advance(LATER)
        return await self.look()

    async def finds(self, *kinds: DriftKind) -> Report:
        """Exactly these are found, and the repairs of all of them make the next look clean."""
        report, found = await self.look_later()
        assert report.failed == {}
        assert sorted(each.difference.kind.value for each in found) == sorted(kind.value for kind in kinds), found
        assert (report.difference_count, report.pending_count) == (len(kinds), 0)
        done = await self.repair(report.report_id, kinds=list(DriftKind), request_id=new_id("req"), actor="tests")
        assert [each.outcome for each in done] == [REPAIRED] * len(kinds), done
        _, left = await self.look_later()
        assert left == []
        return report


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with running_simulator(tmp_path) as running:
        yield running


@pytest.fixture
async def scene(postgres: EmbeddedPostgres, simulator: Simulator) -> AsyncIterator[Scene]:
    async with billing_scene(postgres.url, simulator) as assembled:
        yield assembled


@pytest.fixture
async def desk(scene: Scene, simulator: Simulator) -> AsyncIterator[Desk]:
    api = StripeApi(API_KEY, simulator.url, timeout_seconds=5)
    yield desk_over(scene, simulator, api)
    await api.close()


def desk_over(scene: Scene, simulator: Simulator, api: StripeApi) -> Desk:
    database, books, clock = scene.database, scene.books, scene.clock
    usage = MemoryUsage(*METERS.values())
    make_cut = MakeCut(books, FindPlan(books, PostgresPlans(database.tenant, database.fleet)), usage, clock)
    records, reports = StripeRecords(api, clock), PostgresReports(database.fleet)
    compare = CompareOrganization(books, records, usage, make_cut, clock)
    return Desk(
        scene=scene,
        simulator=simulator,
        usage=usage,
        reports=reports,
        make_cut=make_cut,
        run=ReconcileBilling(reports, books, records, compare, clock),
        repair=ApplyRepairs(
            reports=reports,
            books=books,
            records=records,
            compare=compare,
            collector=scene.collector,
            customers=scene.customers,
            follow_payment=FollowPayment(clock),
            close_billing_period=CloseBillingPeriod(books, scene.in_force, make_cut, clock),
            clock=clock,
        ),
    )


@pytest.fixture(autouse=True)
def quick_library_retries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Stripe's library waits half a second and more between its own retries; that it waits is not ours to test.
    monkeypatch.setattr("stripe._http_client.HTTPClient.INITIAL_DELAY", 0.01)
    monkeypatch.setattr("stripe._http_client.HTTPClient.MAX_DELAY", 0.02)
    return iter([None])


# --- drift between our record and Stripe's


async def test_f28_a_payment_whose_webhook_never_came_is_found_and_taken_over(desk: Desk) -> None:
    await desk.card()
    made = await desk.collected()
    await desk.finds(DriftKind.PAYMENT_UNSEEN)
    assert (await desk.scene.read(made)).state is InvoiceState.PAID


async def test_f28_a_voiding_whose_webhook_never_came_is_found_and_taken_over(desk: Desk) -> None:
    made = await desk.collected()
    await desk.scene.deliver_all(desk.simulator)
    desk.simulator.form(f"/v1/invoices/{made.stripe_invoice_id}/void")
    await desk.finds(DriftKind.STATUS_UNSEEN)
    assert (await desk.scene.read(made)).state is InvoiceState.VOID


async def test_f28_an_invoice_that_is_missing_at_stripe_is_found_and_handed_over_once(desk: Desk) -> None:
    made = await desk.collected()
    await desk.scene.deliver_all(desk.simulator)
    desk.forget(made.stripe_invoice_id)
    report = await desk.finds(DriftKind.INVOICE_MISSING)
    (theirs,) = desk.simulator.invoices()
    assert (theirs["total"], theirs["number"]) == (made.total.minor, made.number)
    assert (await desk.scene.read(made)).stripe_invoice_id == theirs["id"]
    # An old report changes nothing any more.
    again = await desk.repair(report.report_id, kinds=list(DriftKind), request_id="r-again", actor="tests")
    assert [each.outcome for each in again] == [GONE]
    assert len(desk.simulator.invoices()) == 1


async def test_f28_an_invoice_at_stripe_that_is_none_of_ours_is_found_and_voided(desk: Desk) -> None:
    made = await desk.collected()
    await desk.scene.deliver_all(desk.simulator)
    extra = extra_invoice(desk, (await theirs_of(desk, made))["customer"])
    await desk.finds(DriftKind.INVOICE_EXTRA)
    assert desk.simulator.call("GET", f"/v1/invoices/{extra}")["status"] == "void"


async def test_f28_money_taken_for_an_invoice_that_is_none_of_ours_goes_back(desk: Desk) -> None:
    made = await desk.paid()
    extra = extra_invoice(desk, (await theirs_of(desk, made))["customer"])
    desk.simulator.form(f"/v1/invoices/{extra}/pay")
    await desk.finds(DriftKind.INVOICE_EXTRA)
    (refund,) = desk.simulator.call("GET", "/v1/refunds")["data"]
    assert refund["amount"] == 700


async def test_f28_one_line_that_is_missing_of_more_than_ten_is_found_and_the_invoice_replaced(desk: Desk) -> None:
    made = await desk.collected(copies=6)
    await desk.scene.deliver_all(desk.simulator)
    lines = desk.simulator.call("GET", f"/v1/invoices/{made.stripe_invoice_id}/lines?limit=100")["data"]
    assert len(lines) == 12
    desk.forget(lines[11]["id"])
    await desk.finds(DriftKind.LINES_DIFFER)
    await is_replaced(desk, made)


async def test_f28_a_total_that_is_off_by_one_unit_is_found_and_the_invoice_replaced(desk: Desk) -> None:
    made = await desk.collected()
    await desk.scene.deliver_all(desk.simulator)
    desk.tamper(made.stripe_invoice_id, total=made.total.minor + 1)
    await desk.finds(DriftKind.AMOUNT_DIFFERS)
    await is_replaced(desk, made)


async def test_f28_a_total_in_units_a_hundred_times_too_small_is_found_and_the_invoice_replaced(desk: Desk) -> None:
    made = await desk.collected()
    await desk.scene.deliver_all(desk.simulator)
    desk.tamper(made.stripe_invoice_id, total=made.total.minor * 100)
    await desk.finds(DriftKind.AMOUNT_SCALED)
    await is_replaced(desk, made)


async def test_f28_another_currency_is_found_and_the_invoice_replaced(desk: Desk) -> None:
    made = await desk.collected()
    await desk.scene.deliver_all(desk.simulator)
    desk.tamper(made.stripe_invoice_id, currency="jpy")
    await desk.finds(DriftKind.CURRENCY_DIFFERS)
    await is_replaced(desk, made)


async def test_f28_a_line_for_another_time_is_found_and_the_invoice_replaced(desk: Desk) -> None:
    made = await desk.collected()
    await desk.scene.deliver_all(desk.simulator)
    line = desk.simulator.call("GET", f"/v1/invoices/{made.stripe_invoice_id}/lines")["data"][0]
    desk.tamper(line["id"], period={"start": line["period"]["start"] + 86_400})
    await desk.finds(DriftKind.PERIOD_DIFFERS)
    await is_replaced(desk, made)


async def test_f28_another_number_is_found_and_the_invoice_replaced(desk: Desk) -> None:
    made = await desk.collected()
    await desk.scene.deliver_all(desk.simulator)
    desk.tamper(made.stripe_invoice_id, number="TB-999999")
    await desk.finds(DriftKind.NUMBER_DIFFERS)
    (theirs,) = [each for each in desk.simulator.invoices() if each["status"] == "open"]
    assert theirs["number"] == made.number


async def test_f28_numbers_that_were_exchanged_are_found_and_both_invoices_replaced(desk: Desk) -> None:
    made, other = await desk.collected(), await desk.collected(months=1)
    await desk.scene.deliver_all(desk.simulator)
    desk.tamper(made.stripe_invoice_id, number="TB-999999")
    desk.tamper(other.stripe_invoice_id, number=made.number)
    desk.tamper(made.stripe_invoice_id, number=other.number)
    await desk.finds(DriftKind.NUMBER_DIFFERS, DriftKind.NUMBER_DIFFERS)
    for invoice in (made, other):
        await is_replaced(desk, invoice)


async def test_f28_a_second_payment_of_an_invoice_is_found_and_given_back(desk: Desk) -> None:
    made = await desk.paid()
    extra = extra_invoice(desk, (await theirs_of(desk, made))["customer"], amount=made.total.minor)
    desk.simulator.form(f"/v1/invoices/{extra}/pay")
    (payment,) = desk.simulator.call("GET", f"/v1/invoice_payments?invoice={extra}")["data"]
    (first,) = desk.simulator.call("GET", f"/v1/invoice_payments?invoice={made.stripe_invoice_id}")["data"]
    # Both charges are of one payment now, and the second invoice never was.
    charge = desk.simulator.call("GET", f"/v1/payment_intents/{payment['payment']['payment_intent']}")["latest_charge"]
    desk.tamper(charge, payment_intent=first["payment"]["payment_intent"])
    desk.forget(extra)
    await desk.finds(DriftKind.PAYMENT_EXTRA)
    (refund,) = desk.simulator.call("GET", "/v1/refunds")["data"]
    assert (refund["charge"], refund["amount"]) == (charge, made.total.minor)


async def test_f28_an_invoice_that_is_at_stripe_twice_is_found_and_one_of_them_voided(desk: Desk) -> None:
    made = await desk.collected()
    await desk.scene.deliver_all(desk.simulator)
    extra = extra_invoice(desk, (await theirs_of(desk, made))["customer"], amount=made.total.minor)
    desk.tamper(extra, metadata={"tollbook_organization_id": ACME, "tollbook_invoice_id": made.invoice_id})
    await desk.finds(DriftKind.INVOICE_TWICE)
    assert desk.simulator.call("GET", f"/v1/invoices/{extra}")["status"] == "void"
    assert (await theirs_of(desk, made))["status"] == "open"


async def test_f28_a_refund_that_nobody_told_of_is_found_and_written_down(desk: Desk) -> None:
    made = await desk.paid()
    (charge,) = desk.simulator.call("GET", "/v1/charges")["data"]
    desk.simulator.form("/v1/refunds", charge=charge["id"], amount="100")
    await desk.finds(DriftKind.REFUND_UNSEEN)
    async with desk.scene.books.read(ACME) as book:
        (refund,) = await book.payments.refunds(made.invoice_id)
    assert (refund.amount_minor, refund.status) == (100, "succeeded")


async def test_f28_a_customer_that_was_deleted_is_found_and_made_anew_by_the_next_invoice(desk: Desk) -> None:
    made = await desk.paid()
    gone = (await theirs_of(desk, made))["customer"]
    desk.simulator.call("DELETE", f"/v1/customers/{gone}")
    await desk.finds(DriftKind.CUSTOMER_MISSING)
    following = await desk.collected(months=1)
    assert (await theirs_of(desk, following))["customer"] != gone


async def test_f28_a_status_that_went_back_here_is_found_and_goes_on_again(desk: Desk) -> None:
    made = await desk.paid()
    # As a restored backup leaves it.
    desk.own("UPDATE billing.invoices SET state = 'FINALIZED' WHERE invoice_id = %s", made.invoice_id)
    await desk.finds(DriftKind.PAYMENT_UNSEEN)
    assert (await desk.scene.read(made)).state is InvoiceState.PAID


async def test_f28_a_status_that_went_back_at_stripe_is_found_and_settled_there(desk: Desk) -> None:
    made = await desk.collected()
    desk.simulator.form(f"/v1/invoices/{made.stripe_invoice_id}/pay", paid_out_of_band="true")
    await desk.scene.deliver_all(desk.simulator)
    assert (await desk.scene.read(made)).state is InvoiceState.PAID
    desk.tamper(made.stripe_invoice_id, status="open", amount_remaining=made.total.minor)
    await desk.finds(DriftKind.STATUS_REGRESSED)
    assert (await theirs_of(desk, made))["status"] == "paid"


async def test_f28_what_is_void_here_and_open_at_stripe_is_found_and_voided_there(desk: Desk) -> None:
    made = await desk.collected()
    await desk.scene.deliver_all(desk.simulator)
    desk.own("UPDATE billing.invoices SET state = 'VOID' WHERE invoice_id = %s", made.invoice_id)
    await desk.finds(DriftKind.STATUS_REGRESSED)
    assert (await theirs_of(desk, made))["status"] == "void"


async def test_f28_what_is_void_here_and_was_paid_at_stripe_is_found_and_given_back(desk: Desk) -> None:
    made = await desk.paid()
    desk.own("UPDATE billing.invoices SET state = 'VOID' WHERE invoice_id = %s", made.invoice_id)
    await desk.finds(DriftKind.PAID_THOUGH_VOID)
    (charge,) = desk.simulator.call("GET", "/v1/charges")["data"]
    assert charge["amount_refunded"] == made.total.minor


async def test_f39_what_stripe_has_beyond_a_restored_backup_is_found_and_nothing_is_charged_for_it(desk: Desk) -> None:
    before = await desk.collected()
    await desk.scene.deliver_all(desk.simulator)
    lost = await desk.collected(months=1)
    for table in ("due_invoices", "invoice_lines", "dunning_steps", "dunnings", "due_dunnings", "invoices"):
        desk.own(f"DELETE FROM billing.{table} WHERE invoice_id = %s", lost.invoice_id)  # noqa: S608 - names above
    await desk.finds(DriftKind.INVOICE_EXTRA)
    assert desk.simulator.call("GET", f"/v1/invoices/{lost.stripe_invoice_id}")["status"] == "void"
    assert (await theirs_of(desk, before))["status"] == "open"


async def test_f28_what_cannot_be_undone_is_told_until_somebody_accepts_it(desk: Desk) -> None:
    made = await desk.paid()
    desk.tamper(made.stripe_invoice_id, total=made.total.minor + 1)
    await desk.finds(DriftKind.AMOUNT_DIFFERS)
    # Accepted is what it was: as soon as it is something else it is told again.
    desk.tamper(made.stripe_invoice_id, total=made.total.minor + 2)
    _, found = await desk.look_later()
    assert [each.difference.kind for each in found] == [DriftKind.AMOUNT_DIFFERS]


# --- drift between invoices and the ledger


async def test_f28_usage_that_came_later_than_cuts_look_is_found_and_invoiced_once(desk: Desk) -> None:
    timeline = await closed_for_months(desk)
    period = timeline.periods(desk.scene.clock.now())[1]
    desk.usage.events[ACME].append(Used("agent_minutes", 1_100 * MINUTE, period.start))
    report = await desk.finds(DriftKind.USAGE_NOT_INVOICED)
    async with desk.scene.books.read(ACME) as book:
        (newest, *_) = await book.invoices.newest_first(before=None, count=1)
    assert (newest.period, newest.total) == (period, Money(5_000, "USD"))
    again = await desk.repair(report.report_id, kinds=list(DriftKind), request_id="r-again", actor="tests")
    assert [each.outcome for each in again] == [GONE]


async def test_f28_an_event_that_an_invoice_counts_and_the_ledger_lost_is_found_and_corrected(desk: Desk) -> None:
    timeline = await closed_for_months(desk, minutes=1_200)
    periods = timeline.periods(desk.scene.clock.now())
    events = desk.usage.events[ACME]
    (place,) = [number for number, each in enumerate(events) if periods[1].start <= each.at < periods[1].end]
    events[place] = replace(events[place], quantity=0)
    await desk.finds(DriftKind.USAGE_DIFFERS)
    async with desk.scene.books.read(ACME) as book:
        (newest, *_) = await book.invoices.newest_first(before=None, count=1)
    assert sum(line.amount.minor for line in newest.lines if line.meter) == -1_000


async def test_late_usage_that_a_cut_to_come_will_invoice_is_no_drift(desk: Desk) -> None:
    timeline = await closed_for_months(desk)
    period = timeline.periods(desk.scene.clock.now())[-2]
    desk.usage.events[ACME].append(Used("agent_minutes", 1_100 * MINUTE, period.start))
    _, found = await desk.look_later()
    assert found == []


# --- what is no drift, and what reconciling itself promises


async def test_what_is_younger_than_any_work_under_way_is_pending_and_is_repaired_only_by_name(desk: Desk) -> None:
    await desk.card()
    await desk.collected()
    report, found = await desk.look()
    assert (report.difference_count, report.pending_count) == (0, 1)
    assert await desk.repair(report.report_id, kinds=list(DriftKind), request_id="r-1", actor="tests") == []
    named = [each.difference.difference_id for each in found]
    done = await desk.repair(report.report_id, difference_ids=named, request_id="r-2", actor="tests")
    assert [each.outcome for each in done] == [REPAIRED]


async def test_an_invoice_that_is_parked_or_on_its_way_is_no_drift(desk: Desk) -> None:
    made = await desk.scene.finalize()
    desk.simulator.form("/v1/invoices", customer=desk.simulator.form("/v1/customers")["id"], number=made.number)
    await desk.scene.collect()
    await desk.scene.finalize(months=1)
    _, found = await desk.look_later()
    assert found == []


async def test_nothing_is_repaired_unless_told_and_the_same_request_repairs_once(desk: Desk) -> None:
    await desk.card()
    made = await desk.collected()
    report, _ = await desk.look_later()
    await desk.look()
    assert (await desk.scene.read(made)).state is InvoiceState.FINALIZED
    kinds = [DriftKind.PAYMENT_UNSEEN]
    first = await desk.repair(report.report_id, kinds=kinds, request_id="r-1", actor="tests")
    assert await desk.repair(report.report_id, kinds=kinds, request_id="r-1", actor="tests") == first
    with pytest.raises(RequestIdReused):
        await desk.repair(report.report_id, kinds=[DriftKind.REFUND_UNSEEN], request_id="r-1", actor="tests")
    assert desk.scene.rows("SELECT count(*) FROM billing.changes WHERE kind = 'invoice_paid'") == [(1,)]


async def test_reports_are_kept_and_what_is_in_none_cannot_be_repaired(desk: Desk) -> None:
    reports = [(await desk.look())[0] for _ in range(3)]
    kept = await desk.reports.newest_first(before=None, count=2)
    assert [each.report_id for each in kept] == [each.report_id for each in sorted_newest(reports)][:2]
    last = kept[-1]
    (rest,) = await desk.reports.newest_first(before=(last.begin_time, last.report_id), count=2)
    assert await desk.reports.get(rest.report_id) == rest
    with pytest.raises(NotFound):
        await desk.reports.get("rec_none")
    with pytest.raises(InvalidField):
        await desk.repair(rest.report_id, difference_ids=["dif_none"], request_id="r-1", actor="tests")


async def test_without_stripe_there_is_no_report_that_says_that_all_is_well(desk: Desk) -> None:
    away = StripeApi(API_KEY, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(DependencyUnavailable):
        await desk_over(desk.scene, desk.simulator, away).run(actor="tests")
    await away.close()
    assert desk.scene.rows("SELECT count(*) FROM billing.reconciliations") == [(0,)]


# --- what the seeds are made of


async def closed_for_months(desk: Desk, *, minutes: int = 900) -> Timeline:
    """A subscription of four months, used every month, closed and handed over."""
    now = desk.scene.clock.now()
    timeline = begun("starter", start=now - timedelta(days=130))
    async with desk.scene.books.open(ACME) as book:
        await book.subscriptions.begin(timeline, by_tests(now))
    for period in timeline.periods(now):
        desk.usage.events[ACME].append(Used("agent_minutes", minutes * MINUTE, period.start))
    while True:
        async with desk.scene.books.read(ACME) as book:
            made = [close.cut for close in await book.closes.of(timeline.subscription_id)]
        coming = next_cut(timeline, made)
        assert coming is not None
        if coming.at > now:
            break
        await desk.make_cut(ACME, timeline.subscription_id, coming.cut, Order(actor="tests"))
    await desk.scene.work_until_idle()
    await desk.scene.deliver_all(desk.simulator)
    return timeline


def extra_invoice(desk: Desk, customer: str, *, amount: int = 700) -> str:
    """An open invoice that was made at Stripe by hand."""
    made: str = desk.simulator.form("/v1/invoices", customer=customer, currency="usd", auto_advance="false")["id"]
    desk.simulator.form("/v1/invoiceitems", customer=customer, invoice=made, amount=str(amount), currency="usd")
    desk.simulator.form(f"/v1/invoices/{made}/finalize", auto_advance="false")
    return made


async def theirs_of(desk: Desk, invoice: Invoice) -> Any:
    now = await desk.scene.read(invoice)
    return desk.simulator.call("GET", f"/v1/invoices/{now.stripe_invoice_id}")


async def is_replaced(desk: Desk, invoice: Invoice) -> None:
    """What was wrong is void, and what is right is open, under our number with a suffix."""
    assert desk.simulator.call("GET", f"/v1/invoices/{invoice.stripe_invoice_id}")["status"] == "void"
    theirs = await theirs_of(desk, invoice)
    assert (theirs["status"], theirs["total"], theirs["currency"]) == ("open", invoice.total.minor, "usd")
    assert theirs["number"] == f"{invoice.number}-R2"


def sorted_newest(reports: Sequence[Report]) -> list[Report]:
    return sorted(reports, key=lambda each: (each.begin_time, each.report_id), reverse=True)
