from __future__ import annotations

from dataclasses import replace

import pytest

from kit.errors import Refused
from services.quota.domain.checks import Check, Consumption, Subject, content_digest, validate
from services.quota.domain.maxima import QUANTITY_MAX, RESERVE_US_MAX
from tests.unit.quota.samples import MINUTES, decide_check, reserve_check

SOUND = reserve_check("o", {MINUTES: 5})


@pytest.mark.parametrize(
    "check",
    [
        SOUND,
        decide_check("o", {MINUTES: None}),
        decide_check("o", {MINUTES: QUANTITY_MAX}),
        replace(SOUND, request_id="A-z_0.9:" * 16),
        replace(SOUND, consumptions=tuple(Consumption(f"m{index}", 0) for index in range(16))),
    ],
    ids=["reserve", "gate_without_request_id", "largest_quantity", "longest_request_id", "most_consumptions"],
)
def test_a_sound_check_is_accepted(check: Check) -> None:
    validate(check)


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (replace(SOUND, request_id=""), "INVALID_FIELD"),
        (replace(SOUND, request_id="a b"), "INVALID_FIELD"),
        (replace(SOUND, request_id="a" * 129), "INVALID_FIELD"),
        (replace(SOUND, request_id="a}"), "INVALID_FIELD"),
        (replace(SOUND, reserve_us=999_999), "INVALID_FIELD"),
        (replace(SOUND, reserve_us=RESERVE_US_MAX + 1), "INVALID_FIELD"),
        (replace(SOUND, subject=Subject(organization_id="o", task_id="a b")), "INVALID_FIELD"),
        (replace(SOUND, consumptions=()), "INVALID_FIELD"),
        (replace(SOUND, consumptions=(Consumption("m", 1), Consumption("m", 2))), "INVALID_FIELD"),
        (replace(SOUND, consumptions=tuple(Consumption(f"m{n}", 0) for n in range(17))), "LIMIT_EXCEEDED"),
        (replace(SOUND, consumptions=(Consumption("m", -1),)), "INVALID_QUANTITY"),
        (replace(SOUND, consumptions=(Consumption("m", QUANTITY_MAX + 1),)), "INVALID_QUANTITY"),
    ],
    ids=[
        "reserve_without_request_id",
        "request_id_with_a_space",
        "request_id_too_long",
        "request_id_with_a_brace",
        "reserve_too_short",
        "reserve_too_long",
        "task_id_with_a_space",
        "nothing_consumed",
        "meter_twice",
        "too_many_consumptions",
        "negative_quantity",
        "quantity_beyond_2_to_the_53",
    ],
)
def test_an_unsound_check_is_refused_with_its_reason(check: Check, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        validate(check)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "other",
    [
        replace(SOUND, reserve_us=SOUND.reserve_us + 1),
        replace(SOUND, subject=Subject(organization_id="o", task_id="t")),
        replace(SOUND, subject=Subject(organization_id="o", agent_id="t")),
        replace(SOUND, consumptions=(Consumption(MINUTES, 6),)),
        replace(SOUND, consumptions=(Consumption(MINUTES, None),)),
        replace(SOUND, consumptions=(Consumption(MINUTES, 5), Consumption("x", None))),
    ],
    ids=["duration", "task", "agent", "quantity", "gate", "one_more"],
)
def test_checks_of_other_content_have_other_digests(other: Check) -> None:
    assert content_digest(other) != content_digest(SOUND)


def test_the_request_id_is_no_part_of_the_content() -> None:
    assert content_digest(replace(SOUND, request_id="other")) == content_digest(SOUND)
