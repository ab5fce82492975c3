"""The values of a recorded event as SQL reads them, for totals and for rollups alike.

A value has a name: that of a measurement, or `provider_call.` and a field of provider calls. No meter's name holds a
dot, so the two kinds never meet.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.metering.domain.meters import Meter, ValueSource


def _tokens(field: str) -> str:
    return f"CAST(provider_call ->> '{field}' AS bigint)"


# Integer division drops towards zero, so a negated latency comes to the negated number of milliseconds.
_LATENCY_MS = "CAST(provider_call ->> 'latency_ns' AS bigint) / 1000000"

CALL_COLUMNS = {
    "call_count": "direction",
    "latency_count": f"CASE WHEN {_LATENCY_MS} IS NULL THEN 0 ELSE direction END",
    "latency_ms": f"coalesce({_LATENCY_MS}, 0)",
    "tokens_input_uncached": _tokens("tokens_input_uncached"),
    "tokens_cache_read": _tokens("tokens_cache_read"),
    "tokens_cache_write": _tokens("tokens_cache_write"),
    "tokens_output": _tokens("tokens_output"),
    "tokens_reasoning": _tokens("tokens_reasoning"),
}
"""What a rollup of calls adds up, by column: over a row with provider_call and direction (1, or -1 for a reversal: its
quantities are stored negated).
"""


@dataclass(frozen=True, slots=True)
class CallValue:
    """A value of provider calls: how an entry has it (NULL: not known), and which columns of CALL_COLUMNS are its sum
    and the number of events that have it.
    """

    name: str
    of_event: str
    quantity_column: str
    count_column: str


def _call_value(source: ValueSource) -> CallValue:
    name, field = _call_value_name(source), source.value.lower()
    match source:
        case ValueSource.CALLS:
            return CallValue(name, "CAST(direction AS bigint)", "call_count", "call_count")
        case ValueSource.LATENCY_MS:
            return CallValue(name, _LATENCY_MS, "latency_ms", "latency_count")
        case _:
            return CallValue(name, _tokens(field), field, "call_count")


def _call_value_name(source: ValueSource) -> str:
    return f"provider_call.{source.value.lower()}"


CALL_VALUES = tuple(
    _call_value(source) for source in ValueSource if source not in {ValueSource.MEASUREMENT, ValueSource.DIMENSION}
)


def value_name(meter: Meter) -> str:
    """The name of the value that the meter reads."""
    return meter.name if is_measured(meter) else _call_value_name(meter.value_source)


def is_measured(meter: Meter) -> bool:
    """Whether the meter reads a measurement, and not a provider call."""
    return meter.value_source is ValueSource.MEASUREMENT
