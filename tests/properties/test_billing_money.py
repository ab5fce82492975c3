"""Discounts, taxes, credits and credit notes against oracles that share no code with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from kit.errors import InvalidState
from kit.money import Money
from services.billing.domain.coupons import (
    Coupon,
    CouponDuration,
    Discountable,
    DiscountCategory,
    Redemption,
    discount_dues,
)
from services.billing.domain.credit_notes import (
    CitedLine,
    CreditDestination,
    InvoiceLineLeft,
    LineRole,
    credit_note_lines,
    split_credit,
)
from services.billing.domain.credits import (
    CreditEntry,
    CreditGrant,
    CreditMove,
    CreditSource,
    GrantStanding,
    apply_credits,
    available_by_grant,
    balances,
    expired_of,
    returns_of,
)
from services.billing.domain.periods import Period, nth_start
from services.billing.domain.tax import TaxRate, tax_lines

NOW = datetime(2027, 1, 31, tzinfo=UTC)
CURRENCIES = st.sampled_from(["USD", "JPY", "KWD"])
PERCENTS = st.decimals(min_value="0.01", max_value=100, places=2)


@given(
    st.integers(-(10**12), 10**12),
    st.lists(st.decimals(min_value=0, max_value=100, places=4), max_size=5),
    CURRENCIES,
)
def test_taxes_equal_decimal_arithmetic_rounded_half_up(minor: int, percents: list[Decimal], currency: str) -> None:
    rates = [TaxRate(display_name=f"T{n}", percent=each, jurisdiction="X") for n, each in enumerate(percents)]
    found = [line.amount.minor for line in tax_lines(rates, Money(minor, currency))]
    assert found == [int((Decimal(minor) * each / 100).quantize(Decimal(1), ROUND_HALF_UP)) for each in percents]


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=24),
    st.integers(0, 12),
    st.integers(1, 12),
    PERCENTS,
    st.integers(1, 31),
)
def test_a_percentage_for_n_months_is_that_share_of_n_monthly_dues(
    prices: list[int], first: int, count: int, percent: Decimal, day: int
) -> None:
    anchor = NOW.replace(day=day)
    starts = [nth_start(anchor, number) for number in range(len(prices) + 1)]
    coupon = Coupon(
        coupon_id="C",
        display_name="C",
        duration=CouponDuration.MONTHS,
        month_count=count,
        percent=percent,
    )
    redemption = Redemption(redemption_id="r", coupon=coupon, start_time=nth_start(anchor, first), redeem_time=anchor)
    dues = [
        Discountable(
            category=DiscountCategory.BASE,
            interval=Period(*starts[n : n + 2]),
            segment=Period(*starts[n : n + 2]),
            plan_id="p",
            amount=Money(price, "USD"),
        )
        for n, price in enumerate(prices)
    ]
    found = {each.interval.start: each.amount.minor for each in discount_dues([redemption], dues, anchor=anchor)}
    expected = {}
    for n, price in enumerate(prices):
        off = int((Decimal(price) * percent / 100).quantize(Decimal(1), ROUND_HALF_UP))
        if first <= n < first + count and off:
            expected[starts[n]] = -off
    assert found == expected


COUPONS = st.builds(
    lambda percent, amount, duration, months, plans: Coupon(
        coupon_id="C",
        display_name="C",
        duration=duration,
        month_count=months if duration is CouponDuration.MONTHS else 0,
        percent=percent,
        amounts=() if percent is not None else (Money(amount, "USD"),),
        categories=frozenset({DiscountCategory.BASE}),
        plan_ids=plans,
    ),
    st.none() | PERCENTS,
    st.integers(1, 10_000),
    st.sampled_from(CouponDuration),
    st.integers(1, 14),
    st.sampled_from([frozenset(), frozenset({"a"}), frozenset({"a", "b"})]),
)


@given(
    st.lists(COUPONS, max_size=6),
    st.lists(st.tuples(st.integers(0, 5_000), st.sampled_from("ab")), min_size=1, max_size=4),
    st.sampled_from([1, 12]),
    st.randoms(use_true_random=False),
)
def test_any_coupons_take_no_more_than_is_due_and_do_not_mind_the_order_they_are_read_in(
    coupons: list[Coupon], parts: list[tuple[int, str]], months: int, order: object
) -> None:
    end = nth_start(NOW, months)
    cuts = [NOW + (end - NOW) * n / len(parts) for n in range(len(parts))] + [end]
    dues = [
        Discountable(
            category=DiscountCategory.BASE,
            interval=Period(NOW, end),
            segment=Period(cuts[n], cuts[n + 1]),
            plan_id=plan_id,
            amount=Money(cents, "USD"),
        )
        for n, (cents, plan_id) in enumerate(parts)
    ]
    redemptions = [
        Redemption(redemption_id=f"r{n}", coupon=each, start_time=NOW, redeem_time=NOW + timedelta(hours=n % 3))
        for n, each in enumerate(coupons)
    ]
    found = discount_dues(redemptions, dues, anchor=NOW)
    assert all(each.amount.minor < 0 for each in found)
    assert sum(each.amount.minor for each in found) + sum(cents for cents, _ in parts) >= 0
    shuffled = list(redemptions)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert discount_dues(shuffled, dues, anchor=NOW) == found


class Purse:
    """A journal, and beside it four sums that know nothing of it."""

    def __init__(self) -> None:
        self.journal: list[CreditEntry] = []
        self.grants: list[CreditGrant] = []
        self.sums = dict.fromkeys(["granted", "available", "applied", "expired", "revoked"], 0)
        self.paid: dict[str, int] = {}

    def standings(self) -> list[GrantStanding]:
        left = available_by_grant(self.journal)
        return [GrantStanding(grant=each, available=Money(left[each.grant_id], "USD")) for each in self.grants]

    def book(self, move: CreditMove, grant_id: str, amount: Money, invoice_id: str = "") -> None:
        number = len(self.journal) + 1
        self.journal.append(
            CreditEntry(
                number=number, grant_id=grant_id, move=move, amount=amount, entry_time=NOW, invoice_id=invoice_id
            )
        )

    def move(self, cents: int, *, source: str, to: str) -> None:
        self.sums[source] -= cents
        self.sums[to] += cents

    def grant(self, cents: int, days: int) -> None:
        fresh = CreditGrant(
            grant_id=f"g{len(self.grants)}",
            amount=Money(cents, "USD"),
            priority=cents % 3,
            grant_time=NOW,
            expire_time=NOW + timedelta(days=days + 1) if days % 2 else None,
            source=CreditSource.OPERATOR,
        )
        self.grants.append(fresh)
        self.book(CreditMove.GRANT, fresh.grant_id, fresh.amount)
        self.move(cents, source="granted", to="available")

    def apply(self, cents: int, days: int) -> None:
        now = NOW + timedelta(days=days)
        uses = apply_credits(self.standings(), Money(cents, "USD"), now)
        usable = [each for each in self.standings() if each.grant.expire_time is None or now < each.grant.expire_time]
        expected = min(cents, sum(each.available.minor for each in usable))
        assert sum(use.amount.minor for use in uses) == expected
        invoice_id = f"inv{len(self.journal)}"
        for use in uses:
            self.book(CreditMove.APPLY, use.grant_id, use.amount, invoice_id)
        if uses:
            self.paid[invoice_id] = expected
        self.move(expected, source="available", to="applied")

    def give_back(self, _cents: int, _days: int) -> None:
        for invoice_id in list(self.paid)[:1]:
            back = returns_of(self.journal, invoice_id)
            expected = self.paid.pop(invoice_id)
            assert sum(use.amount.minor for use in back) == expected
            for use in back:
                self.book(CreditMove.RETURN, use.grant_id, use.amount, invoice_id)
            self.move(expected, source="applied", to="available")

    def expire(self, _cents: int, days: int) -> None:
        for use in expired_of(self.standings(), NOW + timedelta(days=days)):
            self.book(CreditMove.EXPIRE, use.grant_id, use.amount)
            self.move(use.amount.minor, source="available", to="expired")

    def revoke(self, cents: int, _days: int) -> None:
        for each in self.standings()[:1]:
            taken = min(cents, each.available.minor)
            if taken:
                self.book(CreditMove.REVOKE, each.grant.grant_id, Money(taken, "USD"))
                self.move(taken, source="available", to="revoked")


STEPS = st.tuples(
    st.sampled_from([Purse.grant, Purse.apply, Purse.give_back, Purse.expire, Purse.revoke]),
    st.integers(1, 500),
    st.integers(0, 40),
)


@given(st.lists(STEPS, max_size=40))
def test_what_was_granted_is_available_applied_expired_or_revoked_at_every_moment(
    steps: list[tuple[Callable[[Purse, int, int], None], int, int]],
) -> None:
    purse = Purse()
    for step, cents, days in steps:
        step(purse, cents, days)
        found = {account.value.lower(): money.minor for account, money in balances(purse.journal, "USD").items()}
        assert found == purse.sums
        assert sum(found.values()) == 0
        assert min(available_by_grant(purse.journal).values(), default=0) >= 0


@given(
    st.lists(st.integers(-3_000, 5_000), min_size=1, max_size=6),
    st.lists(st.decimals(min_value=0, max_value=30, places=2), max_size=2),
    st.lists(st.tuples(st.integers(0, 7), st.none() | st.integers(-5_000, 5_000)), max_size=12),
)
def test_any_credit_notes_take_back_each_line_and_tax_at_most_once_and_all_of_it_at_the_end(
    charges: list[int], percents: list[Decimal], asked: list[tuple[int, int | None]]
) -> None:
    net = sum(charges)
    taxes = [round(Fraction(net) * Fraction(each) / 100) for each in percents] if net > 0 else []
    lines = [
        InvoiceLineLeft(
            line_number=number, role=role, description="", amount=Money(minor, "USD"), credited=Money(0, "USD")
        )
        for number, (role, minor) in enumerate(
            [(LineRole.CHARGE, minor) for minor in charges] + [(LineRole.TAX, minor) for minor in taxes], start=1
        )
    ]
    wanted: list[list[CitedLine]] = [
        [CitedLine(line_number=1 + number % len(charges), amount=None if minor is None else Money(minor, "USD"))]
        for number, minor in asked
    ]
    for cited in [*wanted, []]:
        try:
            noted = credit_note_lines(lines, cited)
        except InvalidState:
            continue
        assert sum(each.amount.minor for each in noted) > 0
        for each in noted:
            line = lines[each.line_number - 1]
            lines[each.line_number - 1] = replace(line, credited=Money(line.credited.minor + each.amount.minor, "USD"))
        for line in lines:
            assert min(0, line.amount.minor) <= line.credited.minor <= max(0, line.amount.minor)
        assert sum(line.credited.minor for line in lines) <= net + sum(taxes)
    if net > 0 and all(minor >= 0 for minor in charges):
        assert all(line.left.minor == 0 for line in lines)


@given(st.integers(1, 10**6), st.integers(-100, 10**6), st.integers(-100, 10**6), st.sampled_from(CreditDestination))
def test_the_parts_of_a_credit_note_add_up_to_its_total(
    total: int, due: int, refundable: int, destination: CreditDestination
) -> None:
    split = split_credit(
        Money(total, "USD"), due=Money(due, "USD"), refundable=Money(refundable, "USD"), destination=destination
    )
    parts = [split.reduced.minor, split.credited.minor, split.refunded.minor]
    assert sum(parts) == total
    assert min(parts) >= 0
    assert split.reduced.minor <= max(0, due)
    assert split.refunded.minor <= max(0, refundable)
