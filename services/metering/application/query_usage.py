"""Query usage: exact totals of one organization, by meter, window and group."""

from __future__ import annotations

from collections.abc import Sequence

from kit.clock import unix_microseconds
from kit.errors import InvalidField, LimitExceeded
from services.metering.application.ports import Interval, MeterCatalog, UsageAnswer, UsageReader
from services.metering.domain import limits
from services.metering.domain.errors import TooManyRows, TotalTooLarge, UnknownMeter
from services.metering.domain.grouping import Dimension, Filter
from services.metering.domain.meters import Meter
from services.metering.domain.usage_query import UsageQuery
from services.metering.domain.windows import Window, WindowSize, cut, zone_from_name


class QueryUsage:
    """Totals an interval of event time."""

    def __init__(self, usage: UsageReader, meters: MeterCatalog) -> None:
        self._usage = usage
        self._meters = meters

    async def __call__(
        self,
        organization_id: str,
        interval: Interval,
        *,
        meters: Sequence[str] = (),
        group_by: Sequence[Dimension] = (),
        filters: Sequence[Filter] = (),
        window: WindowSize | None = None,
        time_zone: str = "",
        as_of_sequence: int = 0,
    ) -> UsageAnswer:
        """The totals of the meters asked for (none: all) in a half-open interval; an empty interval has none.

        as_of_sequence 0 means the head. The answer's position says what was included. Raises UnknownMeter,
        InvalidField, TooManyWindows, TooManyRows, TotalTooLarge and DependencyUnavailable.
        """
        windows = _windows(interval, window, time_zone)
        query = UsageQuery(
            meters=await self._wanted(meters), windows=windows, group_by=tuple(group_by), filters=tuple(filters)
        )
        answer = await self._usage.usage(organization_id, query, as_of_sequence=as_of_sequence or None)
        if len(answer.rows) > limits.QUERY_ROWS_MAX:
            raise TooManyRows(maximum=limits.QUERY_ROWS_MAX)
        for row in answer.rows:
            if row.quantity > limits.TOTAL_MAX:
                raise TotalTooLarge(meter=row.meter, maximum=limits.TOTAL_MAX)
        return answer

    async def _wanted(self, names: Sequence[str]) -> tuple[Meter, ...]:
        known = await self._meters.meters()
        if len(names) > limits.METERS_MAX:
            raise LimitExceeded(what="meters", actual=len(names), maximum=limits.METERS_MAX)
        for name in names:
            if name not in known:
                raise UnknownMeter(meter=name[: limits.NAME_BYTES_MAX])
        return tuple(known[name] for name in sorted(set(names) or known))


def _windows(interval: Interval, size: WindowSize | None, time_zone: str) -> tuple[Window, ...]:
    start_us, end_us = (None if edge is None else unix_microseconds(edge) for edge in (interval.start, interval.end))
    if start_us is not None and end_us is not None and start_us > end_us:
        raise InvalidField(field="end_time", problem="before start_time")
    if size is None:
        if time_zone:
            raise InvalidField(field="time_zone", problem="only with a window")
        return () if start_us is not None and start_us == end_us else (Window(start_us, end_us),)
    if start_us is None or end_us is None:
        raise InvalidField(field="window", problem="needs start_time and end_time")
    return cut(start_us, end_us, size, zone_from_name(time_zone))
