"""What checks of the same subject and meters have in common, as check.lua reads it. Made once and remembered."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgpack

from kit.recent import Recent
from services.quota.adapters.redis_counters.documents import decided_by_to_document
from services.quota.adapters.redis_counters.keys import (
    OrganizationKeys,
    counter_field,
    keys_of,
    level_field,
    scope_prefix,
)
from services.quota.domain.checks import Applied, Check, matching
from services.quota.domain.limits import ORGANIZATION, PARTS, Counter, LevelMeter, LimitKind
from services.quota.domain.terms import Terms
from services.quota.domain.windows import WindowCounter

# Kept: each allocates a buffer of a megabyte.
_PACKER = msgpack.Packer(use_bin_type=False)


def pack(value: object) -> bytes:
    """The value as MessagePack of the kind that Redis reads: it knows texts and no bytes."""
    packed: bytes = _PACKER.pack(value)
    return packed


_KIND_CODES = {LimitKind.PERIOD: 0, LimitKind.WINDOW: 1, LimitKind.CONCURRENCY: 2}
_UNLIMITED = -1
_SHAPES_MAX = 10_000
_ALL_PARTS = tuple(PARTS.values())
_ORGANIZATION_PREFIX = scope_prefix(ORGANIZATION)
_PART_HEADS = tuple(f"{level.value}|" for level in PARTS)
"""What the prefix of each part's scope begins with, before its id and a bar; see scope_prefix."""


class Shape(NamedTuple):
    """The limits that apply, and their counters and windows, in the order in which the script answers."""

    applied: tuple[Applied, ...]
    counters: tuple[Counter, ...]
    """Those that are read without a check."""
    windows: tuple[WindowCounter, ...]
    window_keys: tuple[str, ...]
    packed: bytes


class _Basis(NamedTuple):
    """What the limits make of all checks that they see alike: by the ids that limits look at, and by meters."""

    terms: Terms
    """Kept, so that no others take their identity."""
    shape: Shape
    """Of those that leave no record."""
    places: Mapping[str, int]
    """Of each counter's field, from 1."""
    described: Sequence[Any]
    """Of the shape of those that do: limits, windows and admissions."""
    decided_by: str
    meters: tuple[str, ...]
    tracked: Sequence[str]


def _basis(terms: Terms, check: Check) -> _Basis:
    entitlement, applied = terms.entitlement, matching(terms.limits, check)
    meters = tuple(consumption.meter for consumption in check.consumptions)
    counters = [each.counter for each in applied if each.limit.window is None]
    windows = [WindowCounter(each.counter, each.limit.window) for each in applied if each.limit.window is not None]
    places = _Places(keys_of(terms.organization_id), counters, windows)
    place_of_meter = {meter: place for place, meter in enumerate(meters, start=1)}
    limits = [
        [
            _KIND_CODES[each.limit.kind],
            place_of_meter[each.limit.meter],
            places.of_limit(each),
            _UNLIMITED if each.limit.value is None else each.limit.value,
            _UNLIMITED if each.limit.hard is None else each.limit.hard,
            int(each.limit.shadow),
        ]
        for each in applied
    ]
    admissions = [[place, place_of_meter[each.counter.meter]] for each, place in places.of_window.items()]
    tracked = {tracks for each in applied if (tracks := each.limit.tracks) is not None}
    return _Basis(
        terms,
        places.made(applied, limits=limits, admissions=admissions, meters=meters, tracked=tracked),
        {counter_field(counter): place for counter, place in places.of_counter.items()},
        [limits, places.windows_described, admissions],
        # Versions are those that decide: a repeated check is answered by them.
        decided_by_to_document(entitlement.version, entitlement.period, applied),
        meters,
        [level_field(each) for each in tracked],
    )


def _recorded(basis: _Basis, parts: Sequence[str]) -> bytes:
    """The shape of checks that leave a record, and may hold under every scope of the subject; parts: its ids, of all
    levels. Made for nearly every reservation, since most are of a task of its own: so of texts alone.
    """
    prefixes = [_ORGANIZATION_PREFIX, *[head + id_ + "|" for head, id_ in zip(_PART_HEADS, parts, strict=True) if id_]]
    places = dict(basis.places)
    held = [[places.setdefault(prefix + meter, len(places) + 1) for prefix in prefixes] for meter in basis.meters]
    return pack([list(places), held, *basis.described, basis.decided_by, pack(prefixes), basis.meters, basis.tracked])


class Shapes:
    """The shapes of checks that were asked lately: one organization's checks have few of them."""

    def __init__(self) -> None:
        self._bases = Recent[tuple[object, ...], _Basis](_SHAPES_MAX)
        self._recorded = Recent[tuple[object, ...], tuple[_Basis, Shape]](_SHAPES_MAX)

    def of(self, terms: Terms, check: Check, *, records: bool) -> Shape:
        """The shape of a check, and of all by a subject of the same scopes that consume the same meters. `records`:
        whether it leaves a record, and may hold.
        """
        # Of what leaves no record only those ids count that limits look at. A limit that the check brings along may
        # look at any.
        visible = check.visible(_ALL_PARTS if check.brought else terms.parts)
        key = (id(terms), check.brought, visible, *[each.meter for each in check.consumptions])
        basis = self._bases.get(key)
        if basis is None or basis.terms is not terms:
            basis = _basis(terms, check)
            self._bases.put(key, basis)
        if not records:
            return basis.shape
        parts = check.visible(_ALL_PARTS)
        known = self._recorded.get((id(basis), parts))
        if known is not None and known[0] is basis:
            return known[1]
        shape = basis.shape._replace(packed=_recorded(basis, parts))
        self._recorded.put((id(basis), parts), (basis, shape))
        return shape


def shape_of_reading(terms: Terms, counters: Iterable[Counter], windows: Iterable[WindowCounter]) -> Shape:
    """Of no check at all: what the counters and windows say."""
    return _Places(keys_of(terms.organization_id), counters, windows).made((), tracked=terms.tracked)


class _Places:
    """Each counter and window once, and its place from 1."""

    def __init__(self, keys: OrganizationKeys, counters: Iterable[Counter], windows: Iterable[WindowCounter]) -> None:
        self._keys = keys
        self.of_counter = {counter: place for place, counter in enumerate(dict.fromkeys(counters), start=1)}
        self.of_window = {window: place for place, window in enumerate(dict.fromkeys(windows), start=1)}

    def of_limit(self, applied: Applied) -> int:
        if applied.limit.window is None:
            return self.of_counter[applied.counter]
        return self.of_window[WindowCounter(applied.counter, applied.limit.window)]

    @property
    def windows_described(self) -> list[list[int]]:
        """Their slots, in order."""
        return [[each.window.slot_us, each.window.slots_counted] for each in self.of_window]

    def made(
        self,
        applied: tuple[Applied, ...],
        *,
        limits: Sequence[Sequence[int]] = (),
        admissions: Sequence[Sequence[int]] = (),
        meters: tuple[str, ...] = (),
        tracked: Collection[LevelMeter] = (),
    ) -> Shape:
        """The shape of what leaves no record."""
        described: list[Any] = [
            [counter_field(counter) for counter in self.of_counter],
            [],
            limits,
            self.windows_described,
            admissions,
            "",
            b"",
            meters,
            [level_field(each) for each in tracked],
        ]
        keys = tuple(self._keys.window(each) for each in self.of_window)
        return Shape(applied, tuple(self.of_counter), tuple(self.of_window), keys, pack(described))
