"""Which part of a query rollups answer: the whole buckets inside its interval. The rest is read event by event."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.metering.domain.grouping import Dimension, SubjectPart
from services.metering.domain.meters import Aggregation
from services.metering.domain.windows import Window

BUCKET_US = 15 * 60 * 1_000_000
"""Every zone's offset today is a multiple of it, so local hours and days are made of whole buckets."""

ROLLED_UP = frozenset({Aggregation.SUM, Aggregation.COUNT})
"""What can be taken back by subtraction. A maximum, a latest value and a set of values cannot: to leave an event out,
they must see the others again. Time-weighted sums need the order of events within a series.
"""

ROLLED_UP_BY = frozenset({SubjectPart.PROJECT, SubjectPart.TEAM, SubjectPart.USER, SubjectPart.AGENT})
"""By what rollups can be grouped and filtered. Tasks, sessions and labels have about as many values as events: totals
by them would be no smaller than the events themselves.
"""


def can_be_rolled_up_by(dimensions: Iterable[Dimension]) -> bool:
    """Whether rollups tell the values of all these dimensions apart."""
    return ROLLED_UP_BY.issuperset(dimensions)


def whole_buckets(windows: Sequence[Window]) -> Window | None:
    """The whole buckets inside the interval that the windows tile; at least one window.

    None when there is no whole bucket, or when windows meet inside one: in zones of long ago, whose offset was not a
    multiple of a bucket.
    """
    if any(window.start_us is None or window.start_us % BUCKET_US for window in windows[1:]):
        return None
    start_us, end_us = windows[0].start_us, windows[-1].end_us
    first_us = None if start_us is None else -(-start_us // BUCKET_US) * BUCKET_US
    last_us = None if end_us is None else end_us // BUCKET_US * BUCKET_US
    if first_us is not None and last_us is not None and first_us >= last_us:
        return None
    return Window(first_us, last_us)
