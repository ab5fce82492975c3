"""CloudEvents 1.0 over HTTP with JSON, read strictly.

After github.com/cloudevents/spec, version 1.0.2: the HTTP protocol binding (its three content modes) and the JSON event
format. The request as a whole is refused only when it is no CloudEvents; whatever is wrong with one event refuses that
event. Extension attributes are ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import unquote_to_bytes

from kit.clock import unix_microseconds
from kit.errors import LimitExceeded
from services.metering.domain import limits
from services.metering.domain.errors import NotCloudEvents
from services.metering.domain.refusals import Refusal

USAGE_TYPE = "dev.tollbook.usage.v1"
"""Its data is the JSON of a UsageEvent. A change of what the data means is a new type."""

_SINGLE = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"
_ANY_FORMAT = "application/cloudevents"
_HEADER_PREFIX = "ce-"
_TEXT_ATTRIBUTES = ("id", "source", "type")

# A text (to the end of the body when it is not closed, so that nothing is looked at twice), what nests, what separates.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+\\?(?:"|\Z)|[\[\]{},]', re.DOTALL)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)
_INTEGER_DIGITS_MAX = 20  # of 2^63 - 1 and a sign
_NAME_SHOWN_MAX = 64


@dataclass(frozen=True, slots=True)
class HttpMessage:
    """A request as it arrived."""

    content_type: str
    headers: Sequence[tuple[str, str]]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """One event; its data is strict JSON: integers, no key twice, no text that is not Unicode."""

    id: str
    source: str
    type: str
    subject: str
    """Empty: not given."""
    time_ns: int
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MeterMapping:
    """How events of one type that is not ours are counted."""

    meter: str
    value_key: str
    """The key of the data whose value is the quantity; empty: each event counts 1."""


@dataclass(frozen=True, slots=True)
class _Malformed:
    """Stands in a parsed value for what strict JSON does not have."""

    refusal: Refusal


def events_of(message: HttpMessage) -> list[CloudEvent | Refusal]:
    """The events of a request, in order, or why each is refused. Raises NotCloudEvents and LimitExceeded."""
    media_type, _, parameters = message.content_type.partition(";")
    media_type = media_type.strip().lower()
    _check_charset(parameters)
    if media_type == _BATCH:
        return [_from_text(element) for element in _elements(_text(message.body))]
    if media_type == _SINGLE:
        text = _text(message.body)
        if not text.lstrip().startswith("{"):
            raise NotCloudEvents(problem=f"with {_SINGLE} the body is one JSON object.")
        return [_from_text(text)]
    if media_type.startswith(_ANY_FORMAT):
        raise NotCloudEvents(problem=f"only {_SINGLE}, {_BATCH} and binary mode are understood.")
    return [_from_headers(message, media_type)]


def quantity_of(event: CloudEvent, mapping: MeterMapping) -> int | Refusal:
    """How much an event of a type that is not ours counts."""
    quantity = _integer_from(event.data.get(mapping.value_key)) if mapping.value_key else 1
    if quantity is None:
        return Refusal("INVALID_QUANTITY", f"data.{mapping.value_key}: an integer is required")
    return quantity


def nanoseconds_from_rfc3339(text: str) -> int | None:
    """Unix nanoseconds, exactly; None when the text is no RFC 3339 time, or finer than a nanosecond."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, sign, hours, minutes = match.groups()
    if fraction is not None and len(fraction) > 9:  # noqa: PLR2004 - digits of a nanosecond
        return None
    try:
        offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        zone = timezone(-offset if sign == "-" else offset)
        moment = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=zone)
        return unix_microseconds(moment) * 1_000 + int((fraction or "").ljust(9, "0"))
    except (ValueError, OverflowError):
        return None


def _integer_from(value: object) -> int | None:
    """An integer, or one in text, as 64-bit integers stand in JSON."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < _INTEGER_DIGITS_MAX:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _check_charset(parameters: str) -> None:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "us-ascii"):
            raise NotCloudEvents(problem="the charset is not UTF-8.")


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise NotCloudEvents(problem="the body is not UTF-8.") from None


def _elements(text: str) -> list[str]:
    """The texts of a JSON array's elements. Parsed one by one, an element that cannot be read leaves the others."""
    if not text.lstrip().startswith("["):
        raise NotCloudEvents(problem=f"with {_BATCH} the body is one JSON array.")
    elements: list[str] = []
    begin, depth = text.index("[") + 1, 0
    for token in _TOKEN.finditer(text):
        mark = text[token.start()]
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
        if depth == 0 or (depth == 1 and mark == ","):
            elements.append(text[begin : token.start()])
            begin = token.end()
            if len(elements) > limits.BATCH_EVENTS_MAX:
                raise LimitExceeded(what="events", actual=len(elements), maximum=limits.BATCH_EVENTS_MAX)
        if depth == 0:
            break
    if depth != 0 or text[begin - 1] != "]" or text[begin:].strip():
        raise NotCloudEvents(problem="the body is not one JSON array.")
    return [] if len(elements) == 1 and not elements[0].strip() else elements


def _depth(text: str) -> int:
    deepest = depth = 0
    for token in _TOKEN.finditer(text):
        mark = text[token.start()]
        depth += (mark in "[{") - (mark in "]}")
        deepest = max(deepest, depth)
    return deepest


def _from_text(text: str) -> CloudEvent | Refusal:
    if _depth(text) > limits.CLOUDEVENT_DEPTH_MAX:
        return Refusal("INVALID_FIELD", f"nested deeper than {limits.CLOUDEVENT_DEPTH_MAX} objects and arrays")
    try:
        value = _parse(text)
    except json.JSONDecodeError as error:
        raise NotCloudEvents(problem=f"not JSON: {error.msg}.") from None
    if isinstance(value, _Malformed):
        return value.refusal
    if not isinstance(value, dict):
        return Refusal("INVALID_FIELD", "an event is a JSON object")
    if value.get("data_base64") is not None:
        return Refusal("INVALID_FIELD", "data_base64: send JSON as `data`")
    content_type = value.get("datacontenttype")
    if content_type is not None and not (isinstance(content_type, str) and _is_json(content_type)):
        return Refusal("INVALID_FIELD", "datacontenttype: only JSON is understood")
    return _event(value, value.get("data"))


def _from_headers(message: HttpMessage, media_type: str) -> CloudEvent | Refusal:
    attributes: dict[str, str] = {}
    for name, value in message.headers:
        attribute = name.lower().removeprefix(_HEADER_PREFIX)
        if attribute in attributes:
            raise NotCloudEvents(problem=f"the header {name.lower()[:_NAME_SHOWN_MAX]} stands twice.")
        attributes[attribute] = _header_text(name, value)
    if "specversion" not in attributes:
        raise NotCloudEvents(problem=f"send {_SINGLE}, {_BATCH}, or JSON with ce- headers.")
    if not _is_json(media_type):
        return Refusal("INVALID_FIELD", "datacontenttype: only JSON is understood")
    text = _text(message.body)
    if _depth(text) > limits.CLOUDEVENT_DEPTH_MAX:
        return Refusal("INVALID_FIELD", f"nested deeper than {limits.CLOUDEVENT_DEPTH_MAX} objects and arrays")
    try:
        data = _parse(text) if text.strip() else None
    except json.JSONDecodeError as error:
        return Refusal("INVALID_FIELD", f"data: not JSON: {error.msg}")
    return _event(attributes, data)


def _header_text(name: str, value: str) -> str:
    stripped = value.strip()
    if stripped.startswith('"') and stripped.endswith('"') and len(stripped) > 1:
        stripped = re.sub(r"\\(.)", r"\1", stripped[1:-1])
    try:
        return unquote_to_bytes(stripped).decode()
    except UnicodeDecodeError:
        raise NotCloudEvents(problem=f"the header {name.lower()[:_NAME_SHOWN_MAX]} is not UTF-8.") from None


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))


def _event(attributes: Mapping[str, Any], data: object) -> CloudEvent | Refusal:
    refusal = _attributes_problem(attributes) or _data_problem(data)
    if refusal is not None:
        return refusal
    return CloudEvent(
        id=attributes["id"],
        source=attributes["source"],
        type=attributes["type"],
        subject=attributes.get("subject") or "",
        time_ns=nanoseconds_from_rfc3339(attributes["time"]) or 0,
        data=data if isinstance(data, dict) else {},
    )


def _attributes_problem(attributes: Mapping[str, Any]) -> Refusal | None:
    if attributes.get("specversion") != "1.0":
        return Refusal("INVALID_FIELD", "specversion: must be 1.0")
    for name in _TEXT_ATTRIBUTES:
        if not isinstance(attributes.get(name), str) or not attributes[name]:
            return Refusal("INVALID_FIELD", f"{name}: required, text")
    subject, time = attributes.get("subject"), attributes.get("time")
    if subject is not None and (not isinstance(subject, str) or not subject):
        return Refusal("INVALID_FIELD", "subject: text, not empty")
    if not isinstance(time, str) or nanoseconds_from_rfc3339(time) is None:
        return Refusal("INVALID_FIELD", "time: required, RFC 3339 with a zone, to the nanosecond at the finest")
    return _problem([*(attributes[name] for name in _TEXT_ATTRIBUTES), subject])


def _data_problem(data: object) -> Refusal | None:
    if data is None or isinstance(data, dict | _Malformed):
        return _problem(data)
    return Refusal("INVALID_FIELD", "data: an object is required")


def _parse(text: str) -> Any:
    return json.loads(
        text, object_pairs_hook=_object, parse_int=_integer, parse_float=_not_an_integer, parse_constant=_not_an_integer
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Malformed:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    seen: set[str] = set()
    repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return _Malformed(Refusal("INVALID_FIELD", f"the key {repeated[:_NAME_SHOWN_MAX]!a} stands twice"))


def _integer(digits: str) -> int | _Malformed:
    # Longer ones are not even converted: that takes time that grows with the square of their length.
    return int(digits) if len(digits) <= _INTEGER_DIGITS_MAX else _not_an_integer(digits)


def _not_an_integer(number: str) -> _Malformed:
    shown = number[:_INTEGER_DIGITS_MAX]
    return _Malformed(Refusal("INVALID_QUANTITY", f"{shown}: numbers are integers of at most 2^53 - 1"))


def _problem(value: object) -> Refusal | None:
    """The first thing anywhere in a parsed value that strict JSON does not have."""
    match value:
        case _Malformed():
            return value.refusal
        case dict():
            return next((found for pair in value.items() for each in pair if (found := _problem(each))), None)
        case list():
            return next((found for each in value if (found := _problem(each))), None)
        case str() if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            return Refusal("INVALID_FIELD", "text that is half of a UTF-16 pair")
        case _:
            return None
