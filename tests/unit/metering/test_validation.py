from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metering.domain import limits
from services.metering.domain.digests import content_digest, identity_digest
from services.metering.domain.events import EventRef, Measurement, ProviderCall, Subject, TaskOutcome, UsageEvent
from services.metering.domain.validation import LABEL_KEYS, validate

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


REVERSAL = UsageEvent(
    id="1",
    source="tests",
    subject=Subject(organization_id="acme"),
    event_time_ns=None,
    measurements=(),
    reversal_of=EventRef("tests", "0"),
)
LONGEST_VALUE = "x" * limits.LABEL_VALUE_BYTES_MAX


@pytest.mark.parametrize(
    "event",
    [
        EVENT,
        replace(EVENT, measurements=(), provider_call=CALL),
        replace(EVENT, measurements=(), task_outcome=TaskOutcome.SUCCEEDED),
        replace(EVENT, labels=tuple((key, LONGEST_VALUE) for key in sorted(LABEL_KEYS))),
        replace(EVENT, subject=Subject(organization_id="acme", user_id="user-7:a.b", agent_id="agent@host")),
        REVERSAL,
    ],
    ids=["measured", "call", "outcome", "labels", "surrogate", "reversal"],
)
def test_a_sound_event_is_not_refused(event: UsageEvent) -> None:
    assert validate(event, METERS) is None


def test_the_list_of_label_keys_is_the_platforms() -> None:
    event = replace(EVENT, labels=(("ours", "1"),))
    assert validate(event, METERS, {"ours"}) is None
    refusal = validate(replace(EVENT, labels=(("environment", "1"),)), METERS, {"ours"})
    assert refusal is not None
    assert refusal.reason == "LABEL_NOT_ALLOWED"


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
        ("INVALID_FIELD", replace(EVENT, subject=Subject(organization_id="acme", user_id="jane@example.com"))),
        ("INVALID_FIELD", replace(EVENT, task_outcome=4)),
        ("INVALID_FIELD", replace(EVENT, task_outcome=-1)),
        ("INVALID_FIELD", replace(EVENT, provider_call=replace(CALL, outcome=4))),
        ("INVALID_FIELD", replace(EVENT, provider_call=replace(CALL, outcome=-1))),
        ("LABEL_NOT_ALLOWED", replace(EVENT, labels=(("prompt", "x"),))),
        ("INVALID_FIELD", replace(EVENT, labels=(("environment", ""),))),
        ("INVALID_FIELD", replace(EVENT, labels=(("environment", "line\nbreak"),))),
        ("INVALID_FIELD", replace(EVENT, labels=(("environment", LONGEST_VALUE + "x"),))),
        ("LIMIT_EXCEEDED", replace(EVENT, labels=tuple((f"key{number:02}", "x") for number in range(17)))),
        ("INVALID_FIELD", replace(REVERSAL, event_time_ns=1)),
        ("INVALID_FIELD", replace(REVERSAL, measurements=EVENT.measurements)),
        ("INVALID_FIELD", replace(REVERSAL, provider_call=CALL)),
        ("INVALID_FIELD", replace(REVERSAL, reservation_id="r")),
        ("INVALID_FIELD", replace(REVERSAL, reservation_final=True)),
        ("INVALID_FIELD", replace(REVERSAL, task_outcome=TaskOutcome.FAILED)),
        ("INVALID_FIELD", replace(REVERSAL, labels=(("environment", "x"),))),
        ("INVALID_FIELD", replace(REVERSAL, subject=Subject(organization_id="acme", project_id="p"))),
        ("INVALID_FIELD", replace(REVERSAL, reversal_of=EventRef("tests", ""))),
        ("INVALID_FIELD", replace(REVERSAL, reversal_of=EventRef("", "0"))),
        ("INVALID_FIELD", replace(REVERSAL, reversal_of=EventRef("tests", "nul\0"))),
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
        replace(EVENT, task_outcome=TaskOutcome.SUCCEEDED),
        replace(EVENT, labels=(("environment", "1"),)),
        replace(EVENT, labels=(("environment", "2"),)),
        replace(EVENT, reversal_of=EventRef("tests", "0")),
        replace(EVENT, reversal_of=EventRef("tests", "2")),
    ],
)
def test_whatever_differs_in_an_event_changes_its_content_digest(other: UsageEvent) -> None:
    assert content_digest(other) != content_digest(EVENT)


def test_what_the_first_version_had_no_word_for_has_no_digest_of_it() -> None:
    for other in (REVERSAL, replace(EVENT, task_outcome=1), replace(EVENT, labels=(("environment", "1"),))):
        assert content_digest(other, version=1) == b""


def test_how_an_event_was_admitted_is_no_part_of_what_it_says() -> None:
    assert content_digest(replace(EVENT, is_backfill=True)) == content_digest(EVENT)


def test_what_our_own_door_measured_of_a_call_is_no_part_of_what_was_sent() -> None:
    bare = replace(EVENT, source="otlp", measurements=(), provider_call=CALL)
    measured = replace(bare, measurements=(Measurement("api_calls", 1), Measurement("tokens_output", 5)))
    assert content_digest(measured) == content_digest(bare)
    assert content_digest(measured, version=1) == content_digest(bare, version=1)
    # Pinned: so were calls recorded before the door measured them.
    assert content_digest(measured, version=2).hex() == "f1b5cea50ca25457ac27e0118cbb93fb"
    assert content_digest(replace(measured, source="tests")) != content_digest(replace(bare, source="tests"))


def test_the_content_digest_never_changes_for_an_event_of_its_version() -> None:
    # Pinned: what was recorded years ago must still be recognised.
    event = replace(EVENT, provider_call=CALL, reservation_id="r", reservation_final=True)
    assert content_digest(event, version=1).hex() == "e6a91f3b857d59d104e27993b131cf26"
    full = replace(event, task_outcome=TaskOutcome.FAILED, labels=(("environment", "tést"),))
    assert content_digest(full, version=2).hex() == "2bb91b88dd448e4fd15f16f1ab9c0bb3"
    assert content_digest(REVERSAL, version=2).hex() == "fa0e13b8cde0261ad293292fddd4e77c"
    assert identity_digest(event).hex() == "4669b4ee34496ef3a4c2ba14a3b4eeb4"
