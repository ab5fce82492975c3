"""Whole subscriptions, invoiced cut by cut, against an oracle of their own and against themselves."""

from __future__ import annotations

import random
import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from services.billing.domain.closing import Cut, CutKind, next_cut
from services.billing.domain.dues import DueKey
from services.billing.domain.invoices import Line, LineKind
from tests.properties.billing_lives import Life, Lived, life, lives
from tests.properties.billing_oracle import owed

LIVES = 5_000
SOAK_LIVES = 100_000
FEW = 600


def test_every_life_costs_what_the_oracle_says_to_the_unit() -> None:
    """M1, and F31: anchors on the last days of months and on leap days, changes and ends at boundary instants and
    beside them, twice a day, usage of the last instant, and all of it known and recorded late.
    """
    differing = [one.seed for one in lives(range(LIVES)) if Lived(one).through().total != owed(one.case)]
    assert differing == []


@pytest.mark.soak
def test_a_hundred_thousand_random_lives_cost_what_the_oracle_says() -> None:
    first = secrets.randbelow(2**48)
    print(f"seeds from {first} to {first + SOAK_LIVES - 1}")  # noqa: T201 - whoever runs it needs them
    seeds = range(first, first + SOAK_LIVES)
    assert [one.seed for one in lives(seeds) if Lived(one).through().total != owed(one.case)] == []


def test_one_invoice_at_the_end_is_the_sum_of_all_that_were_made_on_the_way() -> None:
    for one in lives(range(FEW)):
        assert Lived(one).at_once().total == Lived(one).through().total, one.seed


def test_any_order_and_number_of_closes_sums_to_the_same() -> None:
    """Any cut of any period, at any moment and as often as one likes, usage arriving between; then one at the end."""
    for one in lives(range(FEW)):
        dice = random.Random(~one.seed)
        lived = Lived(one)
        length = one.case.end + timedelta(days=36) - one.case.start
        for number, moment in enumerate(sorted(dice.randrange(1_000) for _ in range(dice.choice([1, 4, 9])))):
            now = one.case.start + length * moment / 1_000
            periods = lived.timeline(now).periods(now + timedelta(seconds=1))
            kind = dice.choice([CutKind.EARLY, CutKind.PERIOD, CutKind.RERATED, CutKind.OPENING])
            lived.make(Cut(kind, dice.choice(periods).start, 1_000 + number), now)
        assert lived.at_once().total == owed(one.case), one.seed


class Repeating(Lived):
    """Makes every cut twice. An early one is not: the next price that is not charged yet is another one then."""

    def make(self, cut: Cut, now: datetime) -> tuple[Line, ...]:
        lines = super().make(cut, now)
        if cut.kind is not CutKind.EARLY:
            assert super().make(replace(cut, ordinal=1_000 + len(self.closes)), now) == (), self.life.seed
        return lines


def test_a_cut_that_is_made_again_makes_no_line() -> None:
    """M3: nothing new, and no changed cent."""
    for one in lives(range(FEW)):
        assert Repeating(one).through().total == owed(one.case), one.seed


def test_lines_of_one_key_are_one_first_line_and_its_corrections() -> None:
    for one in lives(range(FEW)):
        first: dict[DueKey, Line] = {}
        for line in Lived(one).through().lines:
            assert line.key is not None
            if line.corrects_invoice_id:
                assert line.key in first, one.seed
                assert line.amount.minor != 0 or line.difference_quantity != 0, one.seed
            else:
                assert first.setdefault(line.key, line) is line, one.seed


def test_a_usage_line_cites_what_no_line_of_its_key_cited_before() -> None:
    for one in lives(range(FEW)):
        cited: dict[DueKey, int] = {}
        for line in Lived(one).through().lines:
            if line.kind is LineKind.OVERAGE:
                assert line.first_sequence == 0, one.seed
            if line.key is not None and line.meter:
                assert line.first_sequence == cited.get(line.key, 0) <= line.last_sequence, one.seed
                cited[line.key] = line.last_sequence


def test_usage_lines_of_a_charge_count_what_the_ledger_has_once() -> None:
    """What all lines about a charge say was used sums to what the ledger has of the segments that it was charged in."""
    for one in lives(range(FEW)):
        lived = Lived(one).at_once()
        timeline = lived.timeline(one.case.end + timedelta(days=500))
        counted: dict[DueKey, int] = {}
        for line in lived.lines:
            if line.key is not None and line.meter:
                counted[line.key] = counted.get(line.key, 0) + line.difference_quantity
        for key, quantity in counted.items():
            (segment,) = [each for each in timeline.segments(key.interval) if each.interval.start == key.segment_start]
            meter = next(line.meter for line in lived.lines if line.key == key)
            used = sum(
                event.quantity
                for event in one.case.events
                if event.meter == meter and segment.interval.start <= event.time < segment.interval.end
            )
            assert quantity == used, one.seed


def test_segments_tile_their_period_and_periods_tile_the_subscription() -> None:
    for one in lives(range(FEW)):
        timeline = Lived(one).timeline(one.case.end)
        periods = timeline.periods(one.case.end)
        assert periods[0].start == one.case.start
        assert all(before.end == after.start for before, after in pairwise(periods))
        assert periods[-1].start < one.case.end <= periods[-1].end
        segments = [segment.interval for period in periods for segment in timeline.segments(period)]
        assert (segments[0].start, segments[-1].end) == (one.case.start, one.case.end)
        assert all(before.end == after.start for before, after in pairwise(segments))


def test_after_the_last_cut_none_comes_by_itself() -> None:
    for one in lives(range(FEW)):
        lived = Lived(one).through()
        made = {close.cut for close in lived.closes}
        assert next_cut(lived.timeline(one.case.end + timedelta(days=500)), made) is None, one.seed
        assert [cut.kind for cut in made].count(CutKind.FINAL) == 2, one.seed


def test_a_life_follows_from_its_seed_alone() -> None:
    assert [life(seed) for seed in range(20)] == [life(seed) for seed in range(20)]
    assert isinstance(life(0), Life)
