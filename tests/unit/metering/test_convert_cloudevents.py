"""Whatever a CloudEvent's data is, it becomes a usage event or a refusal."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.metering.domain.cloudevents import USAGE_TYPE, HttpMessage, events_of
from services.metering.domain.refusals import Refusal
from services.metering.rpc.convert_cloudevents import usage_event_to_pb
from tollbook.metering.v1 import metering_pb2


def names_of(message: Any) -> list[str]:
    return [name for field in message.DESCRIPTOR.fields for name in (field.name, field.json_name)]


NAMES = sorted(
    {
        name
        for message in (
            metering_pb2.UsageEvent,
            metering_pb2.Subject,
            metering_pb2.Measurement,
            metering_pb2.ProviderCall,
            metering_pb2.EventRef,
        )
        for name in names_of(message)
    }
)
texts = st.sampled_from(["", "5", "-1", "1e3", "1s", "1.5s", "NaN", "OUTCOME_SUCCESS", "é"]) | st.text(max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*NAMES, "other"]), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=6))
def test_any_data_becomes_a_usage_event_or_a_refusal(data: dict[str, Any]) -> None:
    envelope = {"specversion": "1.0", "id": "1", "source": "s", "type": USAGE_TYPE, "time": "2026-01-31T12:00:00Z"}
    body = json.dumps(envelope | {"data": data}).encode()
    (event,) = events_of(HttpMessage("application/cloudevents+json", (), body))
    if isinstance(event, Refusal):
        assert event.reason in ("INVALID_FIELD", "INVALID_QUANTITY")
        return
    made = usage_event_to_pb(event, {})
    assert isinstance(made, Refusal | metering_pb2.UsageEvent)
    if isinstance(made, metering_pb2.UsageEvent):
        assert (made.id, made.source) == ("1", "s")
