"""Comparing two records: no false alarm in any healthy history, and no seeded drift missed in any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.money import Money
from services.billing.domain import limits
from services.billing.domain.invoices import InvoiceState
from services.billing.domain.periods import Period
from services.billing.domain.reconciliation import (
    DriftKind,
    OurRecord,
    TheirCharge,
    TheirInvoice,
    TheirRecord,
    TheirRefund,
    differences,
    number_there,
)
from services.billing.domain.stripe_objects import StripeInvoiceStatus, StripeRefund
from tests.unit.billing.healthy import BEGIN, CUSTOMER, History, healthy_history

Seed = Callable[[Random, History, TheirInvoice], History]


@given(st.randoms(use_true_random=False))
def test_m6_no_healthy_history_raises_an_alarm(random: Random) -> None:
    history = healthy_history(random)
    assert differences(history.ours, history.theirs) == ()


@pytest.mark.parametrize("seed", range(1_000))
def test_m6_no_healthy_history_of_many_invoices_raises_an_alarm(seed: int) -> None:
    history = healthy_history(Random(seed), count_max=20)
    assert differences(history.ours, history.theirs) == ()


def with_theirs(history: History, there: TheirInvoice, *changed: TheirInvoice) -> History:
    others = [each for each in history.theirs.invoices if each != there]
    return replace(history, theirs=replace(history.theirs, invoices=(*others, *changed)))


def lose_it(_: Random, history: History, there: TheirInvoice) -> History:
    charges = [each for each in history.theirs.charges if each.stripe_invoice_id != there.invoice.stripe_invoice_id]
    return with_theirs(replace(history, theirs=replace(history.theirs, charges=tuple(charges))), there)


def lose_a_line(random: Random, history: History, there: TheirInvoice) -> History:
    place = random.randrange(len(there.lines))
    return with_theirs(history, there, replace(there, lines=there.lines[:place] + there.lines[place + 1 :]))


def total_off_by_one(random: Random, history: History, there: TheirInvoice) -> History:
    # Of what was paid, one unit less would also be one unit paid too much.
    off = 1 if there.invoice.status is StripeInvoiceStatus.PAID else random.choice((1, -1))
    total = there.invoice.total_minor + off
    return with_theirs(history, there, replace(there, invoice=replace(there.invoice, total_minor=total)))


def total_times_a_hundred(_: Random, history: History, there: TheirInvoice) -> History:
    total = there.invoice.total_minor * 100
    return with_theirs(history, there, replace(there, invoice=replace(there.invoice, total_minor=total)))


def other_currency(_: Random, history: History, there: TheirInvoice) -> History:
    code = "EUR"
    return with_theirs(history, there, replace(there, invoice=replace(there.invoice, currency_code=code)))


def other_period(random: Random, history: History, there: TheirInvoice) -> History:
    place, second = random.randrange(len(there.lines)), timedelta(seconds=1)
    line = there.lines[place]
    moved = replace(line, period=Period(line.period.start, line.period.end + second))
    return with_theirs(history, there, replace(there, lines=(*there.lines[:place], moved, *there.lines[place + 1 :])))


def other_number(_: Random, history: History, there: TheirInvoice) -> History:
    return with_theirs(history, there, replace(there, invoice=replace(there.invoice, number="TB-999999")))


def twice_at_stripe(_: Random, history: History, there: TheirInvoice) -> History:
    copy = replace(there.invoice, stripe_invoice_id="in_copy", status=StripeInvoiceStatus.OPEN, number="TB-777777")
    return with_theirs(history, there, there, replace(there, invoice=copy))


def extra(_: Random, history: History, there: TheirInvoice) -> History:
    stray = replace(there.invoice, stripe_invoice_id="in_stray", invoice_id="", status=StripeInvoiceStatus.OPEN)
    stray = replace(stray, number="TB-888888", stripe_subscription_id="")
    return with_theirs(history, there, there, replace(there, invoice=stray))


def charged_twice(_: Random, history: History, there: TheirInvoice) -> History:
    total = Money(there.invoice.total_minor, there.invoice.currency_code)
    for number in range(2):
        charge = TheirCharge(
            stripe_charge_id=f"ch_more_{number}",
            stripe_invoice_id=there.invoice.stripe_invoice_id,
            amount=total,
            refunds=(),
            create_time=BEGIN + timedelta(days=number),
        )
        history = replace(history, theirs=replace(history.theirs, charges=(*history.theirs.charges, charge)))
    return history


def charged_for_nothing(_: Random, history: History, there: TheirInvoice) -> History:
    amount = Money(700, there.invoice.currency_code)
    charge = TheirCharge(
        stripe_charge_id="ch_stray", stripe_invoice_id="", amount=amount, refunds=(), create_time=BEGIN
    )
    return replace(history, theirs=replace(history.theirs, charges=(*history.theirs.charges, charge)))


def refunded_in_silence(_: Random, history: History, there: TheirInvoice) -> History:
    code = there.invoice.currency_code
    refund = StripeRefund(stripe_refund_id="re_new", amount_minor=1, currency_code=code, status="succeeded")
    charge = TheirCharge(
        stripe_charge_id="ch_refunded",
        stripe_invoice_id=there.invoice.stripe_invoice_id,
        amount=Money(1, code),
        refunds=(TheirRefund(refund, BEGIN),),
        create_time=BEGIN,
    )
    return replace(history, theirs=replace(history.theirs, charges=(charge, *history.theirs.charges)))


def customer_deleted(_: Random, history: History, there: TheirInvoice) -> History:
    assert there.invoice.stripe_customer_id == CUSTOMER
    return replace(history, theirs=replace(history.theirs, is_customer_there=False))


SEEDS: dict[DriftKind, Seed] = {
    DriftKind.INVOICE_MISSING: lose_it,
    DriftKind.INVOICE_TWICE: twice_at_stripe,
    DriftKind.INVOICE_EXTRA: extra,
    DriftKind.LINES_DIFFER: lose_a_line,
    DriftKind.AMOUNT_DIFFERS: total_off_by_one,
    DriftKind.AMOUNT_SCALED: total_times_a_hundred,
    DriftKind.CURRENCY_DIFFERS: other_currency,
    DriftKind.PERIOD_DIFFERS: other_period,
    DriftKind.NUMBER_DIFFERS: other_number,
    DriftKind.REFUND_UNSEEN: refunded_in_silence,
    DriftKind.CUSTOMER_MISSING: customer_deleted,
}


def a_taken_one(random: Random, history: History) -> TheirInvoice | None:
    """An invoice that is in force on both sides, with our own number and lines."""
    known = {each.invoice.invoice_id: each for each in history.ours.invoices}
    found = [
        each
        for each in history.theirs.invoices
        if each.invoice.status in {StripeInvoiceStatus.OPEN, StripeInvoiceStatus.PAID}
        and not each.invoice.stripe_subscription_id
        and each.invoice.invoice_id in known
    ]
    return random.choice(found) if found else None


@pytest.mark.parametrize("kind", SEEDS, ids=lambda kind: kind.value.lower())
def test_m6_a_seeded_drift_is_found_in_every_history_and_nothing_else_is(kind: DriftKind) -> None:
    seeded = 0
    for number in range(300):
        random = Random(number)
        history = healthy_history(random)
        there = a_taken_one(random, history)
        if there is None:
            continue
        seeded += 1
        drifted = SEEDS[kind](random, history, there)
        assert [each.kind for each in differences(drifted.ours, drifted.theirs)] == [kind], number
    assert seeded > 100


@pytest.mark.parametrize("seed", [charged_twice, charged_for_nothing], ids=["twice", "for_nothing"])
def test_m6_money_taken_beyond_what_is_owed_is_found_in_every_history(seed: Seed) -> None:
    seeded = 0
    for number in range(300):
        random = Random(number)
        history = healthy_history(random)
        there = a_taken_one(random, history)
        if there is None:
            continue
        seeded += 1
        drifted = seed(random, history, there)
        assert {each.kind for each in differences(drifted.ours, drifted.theirs)} == {DriftKind.PAYMENT_EXTRA}, number
    assert seeded > 100


@pytest.mark.parametrize("ours", [each for each in InvoiceState if each is not InvoiceState.DRAFT])
@pytest.mark.parametrize("theirs", [each for each in StripeInvoiceStatus if each is not StripeInvoiceStatus.DRAFT])
def test_m6_every_pair_of_states_is_either_the_same_or_found(ours: InvoiceState, theirs: StripeInvoiceStatus) -> None:
    same = {
        (InvoiceState.FINALIZED, StripeInvoiceStatus.OPEN),
        (InvoiceState.PAST_DUE, StripeInvoiceStatus.OPEN),
        (InvoiceState.PAID, StripeInvoiceStatus.PAID),
        (InvoiceState.VOID, StripeInvoiceStatus.VOID),
        (InvoiceState.UNCOLLECTIBLE, StripeInvoiceStatus.UNCOLLECTIBLE),
    }
    histories = (healthy_history(Random(number), count_max=1) for number in range(1_000))
    history = next(each for each in histories if _was_paid_and_kept(each))
    (mine,), (there,) = history.ours.invoices, history.theirs.invoices
    record = replace(history.ours, invoices=(replace(mine, invoice=replace(mine.invoice, state=ours)),))
    other = replace(history.theirs, invoices=(replace(there, invoice=replace(there.invoice, status=theirs)),))
    told = differences(record, other)
    assert len(told) == (0 if (ours, theirs) in same else 1)


def _was_paid_and_kept(history: History) -> bool:
    """One invoice, paid by card with our number on it, and nothing given back."""
    return (
        len(history.theirs.charges) == 1
        and not history.ours.invoices[0].refunds
        and [each.invoice.number for each in history.theirs.invoices] == [history.ours.invoices[0].invoice.number]
    )


def test_a_difference_has_one_id_however_often_it_is_found_and_another_once_it_changes() -> None:
    random = Random(1)
    histories = (healthy_history(Random(number)) for number in range(100))
    history = next(each for each in histories if a_taken_one(random, each))
    there = a_taken_one(random, history)
    assert there is not None
    drifted = total_times_a_hundred(random, history, there)
    (once,), (again,) = (differences(drifted.ours, drifted.theirs) for _ in range(2))
    assert once.difference_id == again.difference_id
    assert replace(once, their_amount=Money(1, "USD")).difference_id != once.difference_id


def test_what_is_younger_than_work_under_way_is_pending() -> None:
    ours = OurRecord(organization_id="acme", stripe_customer_id="", invoices=())
    charge = TheirCharge(
        stripe_charge_id="ch_1", stripe_invoice_id="", amount=Money(1, "USD"), refunds=(), create_time=BEGIN
    )
    (found,) = differences(ours, TheirRecord(is_customer_there=False, invoices=(), charges=(charge,)))
    assert found.is_pending(BEGIN + limits.RECONCILE_PENDING - timedelta(microseconds=1))
    assert not found.is_pending(BEGIN + limits.RECONCILE_PENDING)


def test_a_number_that_is_taken_gets_the_next_suffix() -> None:
    assert number_there("TB-1", []) == "TB-1"
    assert number_there("TB-1", ["TB-1", "TB-1-R2"]) == "TB-1-R3"
