"""Whole subscriptions down to what is charged: taxes, prepaid credits and rounding of every invoice, against oracles of
their own.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from kit.money import Money
from services.billing.domain.closing import Cut
from services.billing.domain.credits import CreditGrant, CreditSource, GrantStanding
from services.billing.domain.invoices import Line, LineKind, total_of
from services.billing.domain.invoicing import settled, tax_of
from services.billing.domain.tax import TaxRate
from tests.properties.billing_lives import Life, Lived, life
from tests.properties.billing_oracle import owed
from tests.properties.settling_oracle import INCREMENTS, Purse, settle

LIVES = 5_000
SOAK_LIVES = 100_000


class Settling(Lived):
    """A life whose customer pays taxes and has prepaid credits. Every invoice is compared as it is made."""

    def __init__(self, one: Life) -> None:
        super().__init__(one)
        dice = random.Random(f"settling {one.seed}")
        self.hundredths = [dice.choice([0, 1, 825, 1_900, 10_000]) for _ in range(dice.choice([0, 1, 1, 3]))]
        self.grants = [self._grant(dice, f"grant{number}") for number in range(dice.choice([0, 1, 3]))]
        self.standings: dict[str, int] = {}
        self.purses: list[Purse] = []
        self.charged = self.taxes = self.paid = self.rounding = self.to_credit = 0

    def make(self, cut: Cut, now: datetime) -> tuple[Line, ...]:
        """As Lived; an invoice is what has lines."""
        lines = super().make(cut, now)
        if lines:
            self._settle(lines, cut, now)
        return lines

    def _settle(self, lines: tuple[Line, ...], cut: Cut, now: datetime) -> None:
        known = [grant for grant in self.grants if grant.grant_time <= now]
        for grant in known:
            if grant.grant_id not in self.standings:
                self._put(grant)
        period = self.timeline(now).period_at(cut.period_start)
        taxed = (*lines, *tax_of(lines, self._rates(), period=period, currency_code=self._currency))
        standings = [
            GrantStanding(grant=grant, available=Money(self.standings[grant.grant_id], self._currency))
            for grant in reversed(known)
        ]
        found = settled(taxed, standings, period=period, currency_code=self._currency, now=now)
        for use in found.uses:
            self.standings[use.grant_id] -= use.amount.minor
        net = sum(line.amount.minor for line in lines)
        expected = settle(net, self.hundredths, self.purses, now, increment=INCREMENTS[self._currency])
        to_credit = found.to_credit.minor if found.to_credit else 0
        assert (
            tuple(line.amount.minor for line in found.lines if line.kind is LineKind.TAX),
            -self._sum(found.lines, LineKind.CREDIT),
            self._sum(found.lines, LineKind.ROUNDING),
            to_credit,
            total_of(found.lines, self._currency).minor,
        ) == (expected.taxes, expected.paid, expected.rounding, expected.to_credit, expected.charged)
        assert self.standings == {purse.name: purse.left for purse in self.purses}
        self.charged += expected.charged
        self.taxes += sum(expected.taxes)
        self.paid += expected.paid
        self.rounding += expected.rounding
        self.to_credit += to_credit
        if to_credit:
            self.grants.append(self._from_invoice(to_credit, now))

    def _put(self, grant: CreditGrant) -> None:
        self.standings[grant.grant_id] = grant.amount.minor
        self.purses.append(
            Purse(grant.grant_id, grant.amount.minor, grant.priority, grant.grant_time, grant.expire_time)
        )

    def _grant(self, dice: random.Random, name: str) -> CreditGrant:
        made = self.life.case.start + timedelta(days=dice.choice([-1, 0, 20, 45]))
        return CreditGrant(
            grant_id=name,
            amount=Money(dice.choice([1, 505, 4_900, dice.randrange(1, 10**8)]), self._currency),
            priority=dice.choice([0, 1, 1]),
            grant_time=made,
            expire_time=dice.choice([None, made + timedelta(days=30), made + timedelta(days=31)]),
            source=CreditSource.OPERATOR,
        )

    def _from_invoice(self, minor: int, now: datetime) -> CreditGrant:
        return CreditGrant(
            grant_id=f"invoice{len(self.closes)}",
            amount=Money(minor, self._currency),
            priority=1,
            grant_time=now,
            expire_time=None,
            source=CreditSource.INVOICE,
        )

    def _rates(self) -> list[TaxRate]:
        return [
            TaxRate(display_name=f"Tax {number}", percent=Decimal(each) / 100, jurisdiction="X")
            for number, each in enumerate(self.hundredths)
        ]

    @staticmethod
    def _sum(lines: Iterable[Line], kind: LineKind) -> int:
        return sum(line.amount.minor for line in lines if line.kind is kind)


def _require_that_all_is_accounted_for(seed: int) -> None:
    lived = Settling(life(seed))
    lived.through()
    came_in = lived.charged + lived.paid - lived.to_credit
    assert came_in == owed(lived.life.case) + lived.taxes + lived.rounding, seed


def test_every_invoice_of_a_life_charges_what_the_oracle_says_and_together_they_charge_what_is_owed() -> None:
    """M1, B31, B37 and B42: what is charged and what credits pay is what is owed, the taxes, the rounding, and nothing
    else; every total can be charged in its currency, and none is below zero.
    """
    for seed in range(LIVES):
        _require_that_all_is_accounted_for(seed)


@pytest.mark.soak
def test_a_hundred_thousand_random_lives_charge_what_the_oracle_says() -> None:
    first = secrets.randbelow(2**48)
    print(f"seeds from {first} to {first + SOAK_LIVES - 1}")  # noqa: T201 - whoever runs it needs them
    for seed in range(first, first + SOAK_LIVES):
        _require_that_all_is_accounted_for(seed)
