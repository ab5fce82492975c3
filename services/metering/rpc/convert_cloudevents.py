"""CloudEvents and the usage events that they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from services.metering.domain.cloudevents import USAGE_TYPE, CloudEvent, HttpMessage, MeterMapping, quantity_of
from services.metering.domain.refusals import Refusal
from tollbook.metering.v1 import cloudevents_pb2, metering_pb2

_IN_THE_ENVELOPE = ("id", "source", "eventTime", "event_time")
_SHOWN_MAX = 200
_NANOSECONDS = 1_000_000_000
_GOOGLE = "google.protobuf"
_INTEGER = re.compile(r"-?[0-9]{1,19}")


def http_message_from_pb(request: cloudevents_pb2.IngestCloudEventsRequest) -> HttpMessage:
    """The request as it arrived."""
    headers = tuple((header.name, header.value) for header in request.headers)
    return HttpMessage(request.content_type, headers, request.body)


def usage_event_to_pb(event: CloudEvent, mappings: Mapping[str, MeterMapping]) -> metering_pb2.UsageEvent | Refusal:
    """The usage event that a CloudEvent stands for, as if it had been sent to RecordUsage. mappings: by type."""
    if event.type == USAGE_TYPE:
        message = _from_data(event)
    elif event.type in mappings:
        message = _counted(event, mappings[event.type])
    else:
        known = ", ".join([USAGE_TYPE, *sorted(mappings)])
        return Refusal("INVALID_FIELD", f"type: {event.type[:_SHOWN_MAX]!a} is none of {known}")
    if isinstance(message, Refusal):
        return message
    if event.subject:
        if message.subject.user_id not in ("", event.subject):
            return Refusal("INVALID_FIELD", "subject: another user than data.subject.userId")
        message.subject.user_id = event.subject
    message.id, message.source = event.id, event.source
    # A CloudEvent has a time always; a reversal is dated as what it takes back, and has none of its own.
    if not message.HasField("reversal_of"):
        # Not FromNanoseconds, which refuses times that the ledger refuses event by event, with a reason.
        message.event_time.seconds, message.event_time.nanos = divmod(event.time_ns, _NANOSECONDS)
    return message


def _from_data(event: CloudEvent) -> metering_pb2.UsageEvent | Refusal:
    for name in _IN_THE_ENVELOPE:
        if name in event.data:
            return Refusal("INVALID_FIELD", f"data.{name}: stands in the event's own attributes")
    message = metering_pb2.UsageEvent()
    if refusal := _laxity(event.data, message.DESCRIPTOR):
        return refusal
    try:
        json_format.ParseDict(dict(event.data), message)
    except json_format.ParseError as error:
        return Refusal("INVALID_FIELD", f"data: {str(error)[:_SHOWN_MAX]}")
    return message


def _laxity(data: object, descriptor: Descriptor) -> Refusal | None:
    """What the library would take though it is not the JSON of a message: "1e3" for an integer, by way of a float, and
    an empty list for an object.
    """
    if not isinstance(data, Mapping):
        return Refusal("INVALID_FIELD", f"data: an object is required for {descriptor.name}")
    for field in descriptor.fields:
        for name in {field.json_name, field.name} & data.keys():
            if data[name] is not None and (found := _laxity_of_field(data[name], field)):
                return found
    return None


def _laxity_of_field(value: object, field: FieldDescriptor) -> Refusal | None:
    message = field.message_type
    if message is None:
        if field.cpp_type == FieldDescriptor.CPPTYPE_INT64 and isinstance(value, str) and not _INTEGER.fullmatch(value):
            return Refusal("INVALID_QUANTITY", f"data: {field.json_name}: an integer in text has digits alone")
        return None
    if message.GetOptions().map_entry or message.file.package == _GOOGLE:
        return None
    values = value if field.is_repeated and isinstance(value, list) else [value]
    return next((found for each in values if (found := _laxity(each, message))), None)


def _counted(event: CloudEvent, mapping: MeterMapping) -> metering_pb2.UsageEvent | Refusal:
    quantity = quantity_of(event, mapping)
    if isinstance(quantity, Refusal):
        return quantity
    if not -(2**63) <= quantity < 2**63:
        return Refusal("INVALID_QUANTITY", f"data.{mapping.value_key}: not in 0 to 2^53 - 1")
    return metering_pb2.UsageEvent(measurements=[metering_pb2.Measurement(meter=mapping.meter, quantity=quantity)])
