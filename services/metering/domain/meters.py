"""Meters: the kinds of usage that can be counted, and what may be created."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from kit.errors import AlreadyExists, InvalidField, LimitExceeded, RequestIdReused
from services.metering.domain import limits
from services.metering.domain.grouping import Dimension, dimension_to_text

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Aggregation(Enum):
    """How the values of many events become one total. Reversed events and their reversals are left out of all."""

    SUM = "SUM"
    """The sum of the values."""
    COUNT = "COUNT"
    """How many events have a value."""
    MAX = "MAX"
    """The largest value."""
    LATEST = "LATEST"
    """The value of the event with the highest (event_time to the nanosecond, sequence)."""
    UNIQUE_COUNT = "UNIQUE_COUNT"
    """How many different values there are."""
    TIME_WEIGHTED_SUM = "TIME_WEIGHTED_SUM"
    """Value times the milliseconds for which it held, over every series; see aggregation.py."""


class ValueSource(Enum):
    """Which value of an event counts."""

    MEASUREMENT = "MEASUREMENT"
    """The quantity of the measurement that has the meter's name."""
    CALLS = "CALLS"
    """1 for an event with a provider call."""
    TOKENS_INPUT_UNCACHED = "TOKENS_INPUT_UNCACHED"
    TOKENS_CACHE_READ = "TOKENS_CACHE_READ"
    TOKENS_CACHE_WRITE = "TOKENS_CACHE_WRITE"
    TOKENS_OUTPUT = "TOKENS_OUTPUT"
    TOKENS_REASONING = "TOKENS_REASONING"
    LATENCY_MS = "LATENCY_MS"
    """The provider call's latency in milliseconds, rounded down; no value when it is not known."""
    DIMENSION = "DIMENSION"
    """The id or label that the meter's dimension names; no value when the event does not name one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A kind of usage that can be counted."""

    name: str
    base_unit: str
    display_unit: str
    base_units_per_display_unit: int
    aggregation: Aggregation = Aggregation.SUM
    value_source: ValueSource = ValueSource.MEASUREMENT
    dimension: Dimension | None = None
    """With ValueSource.DIMENSION alone."""


@dataclass(frozen=True, slots=True)
class MeterRequest:
    """A meter to create, under the caller's id of the request."""

    request_id: str
    meter: Meter

    @property
    def content(self) -> str:
        """Everything but the id, in one canonical text: what a repeated id is compared by."""
        meter = self.meter
        return json.dumps(
            [
                meter.name,
                meter.base_unit,
                meter.display_unit,
                meter.base_units_per_display_unit,
                meter.aggregation.value,
                meter.value_source.value,
                None if meter.dimension is None else dimension_to_text(meter.dimension),
            ]
        )


def check(request: MeterRequest) -> None:
    """Raises InvalidField unless the request is sound, whatever the catalog holds already."""
    meter = request.meter
    _check_text("request_id", request.request_id, limits.REQUEST_ID_BYTES_MAX)
    if not _NAME.fullmatch(meter.name):
        problem = "a lower-case letter, then up to 63 lower-case letters, digits or `_`"
        raise InvalidField(field="meter.name", problem=problem)
    _check_text("meter.base_unit", meter.base_unit, limits.UNIT_BYTES_MAX)
    _check_text("meter.display_unit", meter.display_unit, limits.UNIT_BYTES_MAX)
    if not 1 <= meter.base_units_per_display_unit <= limits.QUANTITY_MAX:
        raise InvalidField(field="meter.base_units_per_display_unit", problem="not in 1 to 2^53 - 1")
    counts_values = meter.aggregation is Aggregation.UNIQUE_COUNT
    if counts_values != (meter.value_source is ValueSource.DIMENSION):
        problem = "UNIQUE_COUNT goes with VALUE_SOURCE_DIMENSION, and with no other"
        raise InvalidField(field="meter.value_source", problem=problem)
    if counts_values != (meter.dimension is not None):
        raise InvalidField(field="meter.dimension", problem="goes with VALUE_SOURCE_DIMENSION, and with no other")


def decide(request: MeterRequest, kept: Mapping[str, Meter], *, remembered: str | None) -> Meter | None:
    """The meter to add; None when there is nothing to add, because it is there. kept: the catalog. remembered: the
    content that the request's id was used with before; None: it is new.

    A meter is never changed: raises AlreadyExists for another definition under a name that is taken, RequestIdReused,
    and LimitExceeded for one meter too many.
    """
    if remembered is not None and remembered != request.content:
        raise RequestIdReused(request_id=request.request_id)
    existing = kept.get(request.meter.name)
    if existing is not None:
        if existing != request.meter:
            raise AlreadyExists(what="meter", name=request.meter.name)
        return None
    if len(kept) >= limits.METERS_MAX:
        raise LimitExceeded(what="meters", actual=len(kept) + 1, maximum=limits.METERS_MAX)
    return request.meter


def measured(meters: Mapping[str, Meter]) -> frozenset[str]:
    """The names that a measurement may bear. A meter that takes its values elsewhere would ignore a measurement of its
    name in silence, so such a measurement is refused.
    """
    return frozenset(name for name, meter in meters.items() if meter.value_source is ValueSource.MEASUREMENT)


def _check_text(field: str, value: str, bytes_max: int) -> None:
    if not value or not value.isprintable() or len(value.encode()) > bytes_max:
        raise InvalidField(field=field, problem=f"1 to {bytes_max} bytes of printable text")
