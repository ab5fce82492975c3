"""CloudEvents over HTTP, read strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit.errors import LimitExceeded
from services.metering.domain import limits
from services.metering.domain.cloudevents import (
    CloudEvent,
    HttpMessage,
    MeterMapping,
    events_of,
    nanoseconds_from_rfc3339,
    quantity_of,
)
from services.metering.domain.errors import NotCloudEvents
from services.metering.domain.refusals import Refusal

SINGLE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
ENVELOPE: dict[str, Any] = {
    "specversion": "1.0",
    "id": "e1",
    "source": "/agents/7",
    "type": "request",
    "time": "2026-01-31T12:00:00.123456789Z",
}
TIME_NS = 1_769_860_800_123_456_789


def single(body: str | bytes) -> CloudEvent | Refusal:
    raw = body.encode() if isinstance(body, str) else body
    (event,) = events_of(HttpMessage(SINGLE, (), raw))
    return event


def of(**changes: Any) -> CloudEvent | Refusal:
    return single(json.dumps(ENVELOPE | changes))


def reason(event: CloudEvent | Refusal) -> str:
    assert isinstance(event, Refusal), event
    return event.reason


def with_data(data: str) -> CloudEvent | Refusal:
    return single(json.dumps(ENVELOPE)[:-1] + f', "data": {data}}}')


EXPECTED = CloudEvent(id="e1", source="/agents/7", type="request", subject="u1", time_ns=TIME_NS, data={"tokens": 5})


def test_the_three_content_modes_carry_the_same_event() -> None:
    whole = ENVELOPE | {"subject": "u1", "data": {"tokens": 5}}
    headers = [(f"Ce-{name.title()}", value) for name, value in (ENVELOPE | {"subject": "u1"}).items()]
    for message in (
        HttpMessage(SINGLE, (), json.dumps(whole).encode()),
        HttpMessage("Application/CloudEvents+JSON; charset=UTF-8", (), json.dumps(whole).encode()),
        HttpMessage("application/json", headers, b'{"tokens": 5}'),
        HttpMessage("application/vnd.acme+json; charset=utf-8", headers, b' {"tokens": 5} '),
    ):
        assert events_of(message) == [EXPECTED]
    batch = json.dumps([whole, whole], indent=1).encode()
    assert events_of(HttpMessage(BATCH, (), batch)) == [EXPECTED, EXPECTED]


def test_an_empty_batch_has_no_events() -> None:
    assert events_of(HttpMessage(BATCH, (), b" [ \n] ")) == []


def test_unknown_and_extension_attributes_are_ignored_whatever_they_hold() -> None:
    event = of(subject="u1", data={"tokens": 5}, dataschema="x:y", traceparent="00-1", cost=1.5, more={"a": [1.5]})
    assert event == EXPECTED


def test_header_values_are_percent_decoded_and_may_be_quoted() -> None:
    headers = [("ce-" + name, value) for name, value in ENVELOPE.items()]
    (event,) = events_of(HttpMessage("application/json", [*headers, ("CE-Subject", '"gr%C3%BCn%20\\"')], b""))
    assert isinstance(event, CloudEvent)
    assert event.subject == "grün \\"
    (event,) = events_of(HttpMessage("application/json", [*headers, ("ce-subject", r'"a\"b"')], b""))
    assert isinstance(event, CloudEvent)
    assert event.subject == 'a"b'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (SINGLE, b""),
        (SINGLE, b"[]"),
        (SINGLE, b'{"specversion": "1.0"'),
        (SINGLE, b'{"specversion": "1.0"} {}'),
        (SINGLE, b"\xff\xfe{}"),
        (SINGLE + "; charset=iso-8859-1", b"{}"),
        (BATCH, b"{}"),
        (BATCH, b"[{}"),
        (BATCH, b"[{}}"),
        (BATCH, b"[{},]"),
        (BATCH, b"[{}] []"),
        (BATCH, b'["unclosed'),
        (BATCH, b'["unclosed\\'),
        ("application/cloudevents+avro", b""),
        ("application/cloudevents", b"{}"),
        ("application/json", b"{}"),
        ("", b"{}"),
    ],
)
def test_a_body_that_is_no_cloudevents_is_refused_as_a_whole(content_type: str, body: bytes) -> None:
    with pytest.raises(NotCloudEvents):
        events_of(HttpMessage(content_type, (), body))


def test_a_header_that_stands_twice_is_refused() -> None:
    with pytest.raises(NotCloudEvents, match="twice"):
        events_of(HttpMessage("application/json", [("ce-id", "1"), ("Ce-Id", "2")], b""))


def test_a_header_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(NotCloudEvents, match="UTF-8"):
        events_of(HttpMessage("application/json", [("ce-id", "%FF")], b""))


def test_a_batch_above_the_maximum_is_refused_unread() -> None:
    with pytest.raises(LimitExceeded):
        events_of(HttpMessage(BATCH, (), b"[" + b"1," * limits.BATCH_EVENTS_MAX + b"1]"))


@pytest.mark.parametrize(
    "changes",
    [
        {"specversion": "0.3"},
        {"specversion": None},
        {"id": ""},
        {"id": 7},
        {"source": None},
        {"type": ["request"]},
        {"subject": ""},
        {"subject": 7},
        {"time": None},
        {"time": "2026-01-31"},
        {"time": "2026-01-31T12:00:00"},
        {"time": 1769860800},
        {"time": 1769860800.1},
        {"data": [1]},
        {"data": "text"},
        {"data": 5},
        {"data_base64": "e30="},
        {"datacontenttype": "text/plain"},
    ],
)
def test_an_event_with_an_unsound_attribute_is_refused(changes: dict[str, Any]) -> None:
    assert reason(of(**changes)) == "INVALID_FIELD"


@pytest.mark.parametrize(
    "number", ["1.5", "1.0", "1e3", "-0.0", "NaN", "Infinity", "-Infinity", "1" * 21, "1" * 5000, "[1.5]", '{"a": 1E2}']
)
def test_a_number_that_is_no_integer_refuses_its_event(number: str) -> None:
    assert reason(with_data(f'{{"tokens": {number}}}')) == "INVALID_QUANTITY"


@pytest.mark.parametrize(
    "data",
    ['{"a": 1, "a": 1}', '{"b": {"a": 1, "a": 2}}', '{"a": "\\ud800"}', '{"\\udfff": 1}', "[" * 100 + "]" * 100],
)
def test_a_key_twice_half_a_character_and_deep_nesting_refuse_their_event(data: str) -> None:
    assert reason(with_data(data)) == "INVALID_FIELD"


def test_an_attribute_that_stands_twice_refuses_its_event() -> None:
    assert reason(single(json.dumps(ENVELOPE)[:-1] + ', "id": "e2"}')) == "INVALID_FIELD"


def test_poison_events_are_refused_at_their_place_and_the_others_are_read() -> None:
    sound = json.dumps(ENVELOPE)
    poison = [
        "7",
        "null",
        "{}",
        sound[:-1] + ', "data": {"n": NaN}}',
        sound[:-1] + ', "data": ' + "[" * 100_000 + "]" * 100_000 + "}",
        sound[:-1] + ', "data": {"n": ' + "9" * 100_000 + "}}",
        sound[:-1] + ', "data": {"a": "],[{", "b": "\\"]"}}',
    ]
    body = ",".join([sound, *(f"{each},{sound}" for each in poison)])
    events = events_of(HttpMessage(BATCH, (), f"[{body}]".encode()))
    refused = [index for index, event in enumerate(events) if isinstance(event, Refusal)]
    assert refused == [1, 3, 5, 7, 9, 11]
    assert len(events) == 15


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("2026-01-31T12:00:00Z", 1_769_860_800_000_000_000),
        ("2026-01-31t12:00:00.1z", 1_769_860_800_100_000_000),
        ("2026-01-31T12:00:00.000000001Z", 1_769_860_800_000_000_001),
        ("2026-01-31T13:30:00.000001999+01:30", 1_769_860_800_000_001_999),
        ("2026-01-31T11:59:00-00:01", 1_769_860_800_000_000_000),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000_000),
        ("1969-12-31T23:59:59.999999999Z", -1),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, nanoseconds: int) -> None:
    assert nanoseconds_from_rfc3339(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-31 12:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T23:59:60Z",
        "2026-01-31T12:00:00.1234567890Z",
        "2026-01-31T12:00:00.Z",
        "2026-01-31T12:00:00+24:00",
        "2026-01-31T12:00:00+0100",
        "0000-01-01T00:00:00Z",
        "\u0662026-01-31T12:00:00Z",
        "2026-01-31T12:00:00Z\n",
    ],
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert nanoseconds_from_rfc3339(text) is None


def quantity(data: dict[str, Any], value_key: str = "tokens") -> int | str:
    event = CloudEvent(id="1", source="s", type="t", subject="", time_ns=0, data=data)
    found = quantity_of(event, MeterMapping("api_calls", value_key))
    return found.reason if isinstance(found, Refusal) else found


def test_an_event_of_a_mapped_type_counts_its_value_or_one() -> None:
    assert quantity({"tokens": 5}) == 5
    assert quantity({"tokens": "9007199254740991"}) == 2**53 - 1
    assert quantity({}, value_key="") == 1


@pytest.mark.parametrize("value", [None, True, "five", "5.0", "-5", "\u0665", "1_000", " 5", "9" * 30, [5], {"v": 5}])
def test_a_value_that_is_no_integer_is_refused(value: object) -> None:
    assert quantity({"tokens": value}) == "INVALID_QUANTITY"


@given(st.sampled_from([SINGLE, BATCH, "application/json"]), st.binary(max_size=200))
@example(BATCH, b"[\\]")
@example(BATCH, b'["\\]')
def test_no_bytes_break_the_reader(content_type: str, body: bytes) -> None:
    headers = [("ce-" + name, value) for name, value in ENVELOPE.items()]
    try:
        events = events_of(HttpMessage(content_type, headers, body))
    except NotCloudEvents:
        return
    assert all(isinstance(event, Refusal | CloudEvent) for event in events)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet='ab"\\[]{},: é'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='ab"]}', max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=5), st.sampled_from([None, 1]))
def test_a_batch_has_as_many_results_as_elements(values: list[Any], indent: int | None) -> None:
    body = json.dumps(values, indent=indent).encode()
    assert len(events_of(HttpMessage(BATCH, (), body))) == len(values)
