"""Meters, and usage queries with their answers, on the wire and in the domain."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from kit.errors import InvalidField
from kit.grpc.convert import moment_from_pb
from services.metering.application.ports import Interval, UsageAnswer
from services.metering.domain.grouping import Dimension, dimension_from_text, dimension_to_text
from services.metering.domain.meters import Aggregation, Meter, ValueSource
from services.metering.domain.windows import WindowSize
from tollbook.metering.v1 import metering_pb2

_WINDOW_SIZES = {
    metering_pb2.USAGE_WINDOW_HOUR: WindowSize.HOUR,
    metering_pb2.USAGE_WINDOW_DAY: WindowSize.DAY,
    metering_pb2.USAGE_WINDOW_WEEK: WindowSize.WEEK,
    metering_pb2.USAGE_WINDOW_MONTH: WindowSize.MONTH,
}


def interval_from_pb(request: metering_pb2.QueryUsageRequest | metering_pb2.ListUsageEventsRequest) -> Interval:
    """The interval asked for. Raises InvalidField for an edge finer than a microsecond."""
    return Interval(
        moment_from_pb(request.start_time, "start_time") if request.HasField("start_time") else None,
        moment_from_pb(request.end_time, "end_time") if request.HasField("end_time") else None,
    )


def window_size_from_pb(window: metering_pb2.UsageWindow.ValueType) -> WindowSize | None:
    """The length of windows; None: none are asked for. Raises InvalidField for a number that is no window."""
    if window == metering_pb2.USAGE_WINDOW_UNSPECIFIED:
        return None
    if window not in _WINDOW_SIZES:
        raise InvalidField(field="window", problem=f"{window} is no USAGE_WINDOW")
    return _WINDOW_SIZES[window]


def answer_to_pb(
    answer: UsageAnswer, group_by: tuple[Dimension, ...], *, windowed: bool
) -> metering_pb2.QueryUsageResponse:
    """The answer; rows bear their window only when windows were asked for."""
    names = [dimension_to_text(dimension) for dimension in group_by]
    response = metering_pb2.QueryUsageResponse(as_of_sequence=answer.position.sequence)
    for row in answer.rows:
        message = response.rows.add(
            meter=row.meter, quantity=row.quantity, group=dict(zip(names, row.group, strict=True))
        )
        if windowed:
            _fill(message.window_start, row.window.start_us)
            _fill(message.window_end, row.window.end_us)
    return response


def meter_from_pb(message: metering_pb2.Meter) -> Meter:
    """The meter as asked for. Raises InvalidField for an aggregation or a source that there is not."""
    return Meter(
        name=message.name,
        base_unit=message.base_unit,
        display_unit=message.display_unit,
        base_units_per_display_unit=message.base_units_per_display_unit,
        aggregation=_aggregation_from_pb(message.aggregation),
        value_source=_source_from_pb(message.value_source),
        dimension=dimension_from_text(message.dimension, field="meter.dimension") if message.dimension else None,
    )


def meter_to_pb(meter: Meter) -> metering_pb2.Meter:
    """The meter."""
    return metering_pb2.Meter(
        name=meter.name,
        base_unit=meter.base_unit,
        display_unit=meter.display_unit,
        base_units_per_display_unit=meter.base_units_per_display_unit,
        aggregation=metering_pb2.Aggregation.Value(f"AGGREGATION_{meter.aggregation.value}"),
        value_source=metering_pb2.ValueSource.Value(f"VALUE_SOURCE_{meter.value_source.value}"),
        dimension=dimension_to_text(meter.dimension) if meter.dimension else "",
    )


def _aggregation_from_pb(value: metering_pb2.Aggregation.ValueType) -> Aggregation:
    if value in metering_pb2.Aggregation.values() and value != metering_pb2.AGGREGATION_UNSPECIFIED:
        return Aggregation(metering_pb2.Aggregation.Name(value).removeprefix("AGGREGATION_"))
    raise InvalidField(field="meter.aggregation", problem="required")


def _source_from_pb(value: metering_pb2.ValueSource.ValueType) -> ValueSource:
    if value in metering_pb2.ValueSource.values() and value != metering_pb2.VALUE_SOURCE_UNSPECIFIED:
        return ValueSource(metering_pb2.ValueSource.Name(value).removeprefix("VALUE_SOURCE_"))
    raise InvalidField(field="meter.value_source", problem="required")


def _fill(timestamp: Timestamp, moment_us: int | None) -> None:
    if moment_us is not None:
        timestamp.FromMicroseconds(moment_us)
