"""What can be asked of usage, and the shape of the answer."""

from __future__ import annotations

from dataclasses import dataclass

from services.metering.domain.grouping import Dimension, Filter
from services.metering.domain.meters import Meter
from services.metering.domain.windows import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Totals of some meters, apart for each window and each combination of values of group_by."""

    meters: tuple[Meter, ...]
    windows: tuple[Window, ...]
    """They tile the interval, in order. Only a single one may have an open side."""
    group_by: tuple[Dimension, ...] = ()
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One total; there is none where no event counts."""

    meter: str
    window: Window
    group: tuple[str, ...]
    """One value per dimension of the query's group_by, in that order; empty: events that do not name one."""
    quantity: int
