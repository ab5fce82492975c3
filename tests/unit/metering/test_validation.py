from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metering.domain import limits
from services.metering.domain.digests import content_digest, identity_digest
from services.metering.domain.events import Measurement, ProviderCall, Subject, UsageEvent
from services.metering.domain.validation import validate

METERS = frozenset({"api_calls", "agent_minutes"})
EVENT = UsageEvent(
    id="1",
    source="tests",
    subject=Subject(organization_id="acme"),
    event_time_ns=1,
    measurements=(Measurement("api_calls", 1),),
)
CALL = ProviderCall(
    provider="openai_codex",
    model="",
    operation="",
    tokens_input_uncached=0,
    tokens_cache_read=0,
    tokens_cache_write=0,
    tokens_output=0,
    tokens_reasoning=0,
    latency_ns=None,
    outcome=0,
    error_code="",
)


def test_a_sound_event_is_not_refused() -> None:
    assert validate(EVENT, METERS) is None
    assert validate(replace(EVENT, measurements=(), provider_call=CALL), METERS) is None


@pytest.mark.parametrize(
    ("reason", "event"),
    [
        ("INVALID_FIELD", replace(EVENT, id="")),
        ("INVALID_FIELD", replace(EVENT, id="x" * (limits.EVENT_ID_BYTES_MAX + 1))),
        ("INVALID_FIELD", replace(EVENT, id="nul\0")),
        ("INVALID_FIELD", replace(EVENT, source="")),
        ("INVALID_FIELD", replace(EVENT, source="line\nbreak")),
        ("ORGANIZATION_REQUIRED", replace(EVENT, subject=Subject(organization_id=""))),
        ("INVALID_FIELD", replace(EVENT, subject=Subject(organization_id="Acme"))),
        ("INVALID_FIELD", replace(EVENT, subject=Subject(organization_id="acme", user_id="jane doe"))),
        ("INVALID_FIELD", replace(EVENT, subject=Subject(organization_id="acme", task_id="x" * 129))),
        ("INVALID_FIELD", replace(EVENT, event_time_ns=None)),
        ("INVALID_FIELD", replace(EVENT, reservation_final=True)),
        ("INVALID_FIELD", replace(EVENT, measurements=())),
        ("UNKNOWN_METER", replace(EVENT, measurements=(Measurement("nonsense", 1),))),
        ("INVALID_QUANTITY", replace(EVENT, measurements=(Measurement("api_calls", -1),))),
        ("INVALID_QUANTITY", replace(EVENT, measurements=(Measurement("api_calls", 2**53),))),
        ("INVALID_QUANTITY", replace(EVENT, measurements=(Measurement("api_calls", 10**18),))),
        ("INVALID_FIELD", replace(EVENT, measurements=(Measurement("api_calls", 1), Measurement("api_calls", 2)))),
        ("LIMIT_EXCEEDED", replace(EVENT, measurements=(Measurement("api_calls", 1),) * 33)),
        ("INVALID_FIELD", replace(EVENT, provider_call=replace(CALL, provider=""))),
        ("INVALID_QUANTITY", replace(EVENT, provider_call=replace(CALL, tokens_output=-1))),
        ("INVALID_FIELD", replace(EVENT, provider_call=replace(CALL, latency_ns=-1))),
        ("INVALID_FIELD", replace(EVENT, provider_call=replace(CALL, latency_ns=86_400_000_000_001))),
    ],
)
def test_a_broken_rule_is_refused_with_its_reason(reason: str, event: UsageEvent) -> None:
    refusal = validate(event, METERS)
    assert refusal is not None
    assert refusal.reason == reason
    assert ":" in refusal.message


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_two_identities_share_a_digest_only_when_equal(source: str, event_id: str, source_2: str, id_2: str) -> None:
    one, two = replace(EVENT, source=source, id=event_id), replace(EVENT, source=source_2, id=id_2)
    assert (identity_digest(one) == identity_digest(two)) == ((source, event_id) == (source_2, id_2))


def test_a_boundary_between_fields_is_part_of_the_digest() -> None:
    one, two = replace(EVENT, source="a", id="bc"), replace(EVENT, source="ab", id="c")
    assert identity_digest(one) != identity_digest(two)


@pytest.mark.parametrize(
    "other",
    [
        replace(EVENT, event_time_ns=2),
        replace(EVENT, subject=Subject(organization_id="acme", user_id="u")),
        replace(EVENT, measurements=(Measurement("api_calls", 2),)),
        replace(EVENT, measurements=(Measurement("agent_minutes", 1),)),
        replace(EVENT, provider_call=CALL),
        replace(EVENT, provider_call=replace(CALL, latency_ns=0)),
        replace(EVENT, reservation_id="r"),
        replace(EVENT, reservation_id="r", reservation_final=True),
    ],
)
def test_whatever_differs_in_an_event_changes_its_content_digest(other: UsageEvent) -> None:
    assert content_digest(other) != content_digest(EVENT)


def test_the_content_digest_never_changes_for_an_event_of_its_version() -> None:
    # Pinned: what was recorded years ago must still be recognised.
    event = replace(EVENT, provider_call=CALL, reservation_id="r", reservation_final=True)
    assert content_digest(event).hex() == "e6a91f3b857d59d104e27993b131cf26"
    assert identity_digest(event).hex() == "4669b4ee34496ef3a4c2ba14a3b4eeb4"
