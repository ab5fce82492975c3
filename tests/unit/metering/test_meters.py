from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kit.errors import InvalidField
from services.metering.domain import limits
from services.metering.domain.grouping import Label, SubjectPart
from services.metering.domain.meters import Aggregation, MeterRequest, ValueSource, check, measured
from tests.usage_model import METERS, meter

SOUND = meter("gpu_seconds")


@pytest.mark.parametrize("name", ["a", "a_1", "a" * 64, *(each.name for each in METERS)])
def test_a_sound_meter_passes(name: str) -> None:
    check(MeterRequest("r", replace(SOUND, name=name)))


@pytest.mark.parametrize("name", ["", "A", "1a", "_a", "a-b", "a.b", "ä", "a b", "a" * 65, "a\n"])
def test_a_name_that_is_not_lower_case_letters_digits_and_underscores_is_refused(name: str) -> None:
    with pytest.raises(InvalidField, match=r"meter\.name"):
        check(MeterRequest("r", replace(SOUND, name=name)))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("base_unit", {"base_unit": ""}),
        ("base_unit", {"base_unit": "a\nb"}),
        ("display_unit", {"display_unit": "a" * (limits.UNIT_BYTES_MAX + 1)}),
        ("base_units_per_display_unit", {"base_units_per_display_unit": 0}),
        ("base_units_per_display_unit", {"base_units_per_display_unit": limits.QUANTITY_MAX + 1}),
        ("value_source", {"aggregation": Aggregation.UNIQUE_COUNT}),
        ("value_source", {"value_source": ValueSource.DIMENSION, "dimension": SubjectPart.USER}),
        ("dimension", {"dimension": Label("env")}),
        ("dimension", {"aggregation": Aggregation.UNIQUE_COUNT, "value_source": ValueSource.DIMENSION}),
    ],
)
def test_a_meter_that_breaks_a_rule_is_refused_by_its_field(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match=rf"meter\.{field}:"):
        check(MeterRequest("r", replace(SOUND, **changes)))


@pytest.mark.parametrize("request_id", ["", "a\0", "a" * 129])
def test_a_request_needs_an_id(request_id: str) -> None:
    with pytest.raises(InvalidField, match="request_id"):
        check(MeterRequest(request_id, SOUND))


def test_only_meters_that_read_measurements_may_be_measured() -> None:
    names = measured({each.name: each for each in METERS})
    assert names == {"api_calls", "batches", "peak", "level", "storage"}
