"""Usage by period, against the invoices of the same lives."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise

from services.billing.domain.dues import DueKind
from services.billing.domain.usage_reports import recent_stretches, usage_of, wanted_counts
from tests.properties.billing_lives import METERS, Lived, lives

LIVES = 1_000


def test_what_usage_costs_by_period_and_meter_is_what_invoices_charged_for_it() -> None:
    """When the last cut is made: lines about usage and their corrections, summed by period and meter."""
    for one in lives(range(LIVES)):
        lived = Lived(one).at_once()
        after = one.case.end + timedelta(days=500)
        timeline, terms = lived.timeline(after), lived.plans
        stretches = recent_stretches([timeline], after, count=1_000)
        counts = lived.count(wanted_counts(stretches, terms), after)
        charged: Counter[tuple[datetime, str]] = Counter()
        for line in lived.lines:
            if line.key is not None and line.key.kind is DueKind.OVERAGE:
                charged[line.key.interval.start, line.meter] += line.amount.minor
        reported: Counter[tuple[datetime, str]] = Counter()
        used: Counter[str] = Counter()
        for stretch in stretches:
            report = usage_of(stretch, terms, METERS, counts)
            assert report.cost.minor == sum(row.cost.minor for row in report.meters)
            for row in report.meters:
                reported[stretch.period.start, row.meter] += row.cost.minor
                used[row.meter] += row.used_quantity
        assert +reported == +charged, one.seed
        for meter, quantity in used.items():
            in_ledger = [event.quantity for event in one.case.events if event.meter == meter]
            assert quantity <= sum(in_ledger), one.seed


def test_the_stretches_of_a_life_tile_it() -> None:
    for one in lives(range(LIVES)):
        timeline = Lived(one).timeline(one.case.end + timedelta(days=500))
        stretches = recent_stretches([timeline], one.case.end, count=1_000)[::-1]
        edges = [(each.interval.start, each.interval.end) for each in stretches]
        assert edges[0][0] == timeline.start
        assert edges[-1][1] == timeline.end
        assert all(before[1] == after[0] for before, after in pairwise(edges))
