"""By what usage can be grouped, filtered and told apart: the parts of a subject, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from kit.errors import InvalidField, LimitExceeded
from services.metering.domain import limits
from services.metering.domain.events import UsageEvent

_LABEL_PREFIX = "label:"


class SubjectPart(Enum):
    """A part of the organization that a subject may name; the value is how callers name it."""

    PROJECT = "project"
    TEAM = "team"
    USER = "user"
    AGENT = "agent"
    TASK = "task"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class Label:
    """The label with this key."""

    key: str


Dimension = SubjectPart | Label


@dataclass(frozen=True, slots=True)
class Filter:
    """Passes the events whose value of the dimension is one of these; the empty text: that do not name one."""

    dimension: Dimension
    values: frozenset[str]


def dimension_from_text(text: str, *, field: str) -> Dimension:
    """The dimension of that name: a part of the subject, or `label:<key>`. Raises InvalidField."""
    if text.startswith(_LABEL_PREFIX):
        key = text.removeprefix(_LABEL_PREFIX)
        if key and key.isprintable() and len(key.encode()) <= limits.NAME_BYTES_MAX:
            return Label(key)
    else:
        for part in SubjectPart:
            if part.value == text:
                return part
    names = ", ".join(part.value for part in SubjectPart)
    raise InvalidField(field=field, problem=f"{text[:160]!r} is none of {names} and label:<key>")


def dimension_to_text(dimension: Dimension) -> str:
    """The name by which callers know it."""
    return dimension.value if isinstance(dimension, SubjectPart) else _LABEL_PREFIX + dimension.key


def group_by_from_texts(texts: Sequence[str]) -> tuple[Dimension, ...]:
    """What to group by. Raises InvalidField for one that is unknown or named twice, and LimitExceeded."""
    if len(texts) > limits.QUERY_GROUP_BY_MAX:
        raise LimitExceeded(what="group_by", actual=len(texts), maximum=limits.QUERY_GROUP_BY_MAX)
    dimensions = tuple(dimension_from_text(text, field="group_by") for text in texts)
    if len(set(dimensions)) < len(dimensions):
        raise InvalidField(field="group_by", problem="names a dimension twice")
    return dimensions


def filters_from_texts(texts: Sequence[tuple[str, Sequence[str]]]) -> tuple[Filter, ...]:
    """The filters, from dimension and values. A filter without values would pass nothing or, misread, everything, and
    two filters on one dimension are one that says less: both are refused. Raises InvalidField and LimitExceeded.
    """
    if len(texts) > limits.QUERY_FILTERS_MAX:
        raise LimitExceeded(what="filters", actual=len(texts), maximum=limits.QUERY_FILTERS_MAX)
    filters: list[Filter] = []
    for name, values in texts:
        if not values:
            raise InvalidField(field="filters.values", problem=f"empty for {name[:160]!r}")
        if len(values) > limits.FILTER_VALUES_MAX:
            raise LimitExceeded(what="filters.values", actual=len(values), maximum=limits.FILTER_VALUES_MAX)
        if any("\0" in value for value in values):
            raise InvalidField(field="filters.values", problem="a value holds NUL, which no id or label does")
        filters.append(Filter(dimension_from_text(name, field="filters.dimension"), frozenset(values)))
    if len({each.dimension for each in filters}) < len(filters):
        raise InvalidField(field="filters", problem="two filters on one dimension")
    return tuple(filters)


def value_of(event: UsageEvent, dimension: Dimension) -> str:
    """The event's value; empty when it names none."""
    if isinstance(dimension, Label):
        return dict(event.labels).get(dimension.key, "")
    value: str = getattr(event.subject, f"{dimension.value}_id")
    return value


def passes(event: UsageEvent, filters: Sequence[Filter]) -> bool:
    """Whether the event passes every filter."""
    return all(value_of(event, each.dimension) in each.values for each in filters)
