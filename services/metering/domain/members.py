"""Totals of the members of a level of the organization: of each user, of each task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kit.errors import InvalidField, LimitExceeded
from services.metering.domain import limits
from services.metering.domain.grouping import SubjectPart

_LEVELS = tuple(part for part in SubjectPart if part is not SubjectPart.SESSION)


@dataclass(frozen=True, slots=True)
class LevelMeters:
    """A level, and the measurements to total of each of its members."""

    level: SubjectPart
    meters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemberTotal:
    """The total of one member, never 0."""

    level: SubjectPart
    member: str
    meter: str
    quantity: int


@dataclass(frozen=True, slots=True)
class MemberTotals:
    """Totals of members, and the pairs of level and meter of which some, the smallest, were left out."""

    rows: Sequence[MemberTotal] = ()
    incomplete: Sequence[LevelMeters] = ()


def levels_from_texts(texts: Sequence[tuple[str, Sequence[str]]]) -> tuple[LevelMeters, ...]:
    """What is asked of levels. Raises InvalidField and LimitExceeded."""
    names = {part.value: part for part in _LEVELS}
    asked: list[LevelMeters] = []
    for name, meters in texts:
        if name not in names:
            raise InvalidField(field="scoped.level", problem=f"{name[:160]!r} is none of {', '.join(names)}")
        if not meters or len(set(meters)) < len(meters):
            raise InvalidField(field="scoped.meters", problem="empty, or names a meter twice")
        if any("\0" in meter or len(meter.encode()) > limits.NAME_BYTES_MAX for meter in meters):
            raise InvalidField(field="scoped.meters", problem="a name that no meter can have")
        asked.append(LevelMeters(names[name], tuple(meters)))
    if len({each.level for each in asked}) < len(asked):
        raise InvalidField(field="scoped", problem="names a level twice")
    pairs = sum(len(each.meters) for each in asked)
    if pairs > limits.SNAPSHOT_PAIRS_MAX:
        raise LimitExceeded(what="scoped meters", actual=pairs, maximum=limits.SNAPSHOT_PAIRS_MAX)
    return tuple(asked)


def largest(rows: Iterable[MemberTotal], *, at_most: int) -> MemberTotals:
    """The largest totals of each pair of level and meter, in no order: as many of every pair, as far as it has them."""
    pairs: dict[tuple[SubjectPart, str], list[MemberTotal]] = defaultdict(list)
    for row in rows:
        pairs[row.level, row.meter].append(row)
    placed = [
        (place, row)
        for members in pairs.values()
        for place, row in enumerate(sorted(members, key=lambda each: (-each.quantity, each.member)))
    ]
    placed.sort(key=lambda each: each[0])
    left_out: dict[SubjectPart, set[str]] = defaultdict(set)
    for _, row in placed[at_most:]:
        left_out[row.level].add(row.meter)
    incomplete = tuple(LevelMeters(level, tuple(sorted(meters))) for level, meters in left_out.items())
    return MemberTotals(tuple(row for _, row in placed[:at_most]), incomplete)
