"""What checks of the same subject and meters have in common, as check.lua reads it. Made once and remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import msgpack

from services.quota.adapters.redis_counters.documents import decided_by_to_document
from services.quota.adapters.redis_counters.keys import (
    OrganizationKeys,
    counter_field,
    keys_of,
    level_field,
    scope_prefix,
)
from services.quota.domain.checks import Applied, Check, matching
from services.quota.domain.limits import PARTS, Counter, LevelMeter, LimitKind
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


class Shape(NamedTuple):
    """The limits that apply, and their counters and windows, in the order in which the script answers."""

    applied: tuple[Applied, ...]
    counters: tuple[Counter, ...]
    windows: tuple[WindowCounter, ...]
    window_keys: tuple[str, ...]
    packed: bytes


def shape_of_check(terms: Terms, check: Check, *, records: bool) -> Shape:
    """Of this check, and of all by a subject of the same scopes that consume the same meters. `records`: whether they
    leave a record, and may hold.
    """
    entitlement, applied, scopes = terms.entitlement, matching(terms.limits, check), check.subject.scopes
    meters = tuple(consumption.meter for consumption in check.consumptions)
    counters = [each.counter for each in applied if each.limit.window is None]
    held = [[Counter(scope, meter) for scope in scopes] for meter in meters] if records else []
    counters += [counter for each in held for counter in each]
    windows = [WindowCounter(each.counter, each.limit.window) for each in applied if each.limit.window is not None]
    shape = _Places(keys_of(terms.organization_id), counters, windows)
    place_of_meter = {meter: place for place, meter in enumerate(meters, start=1)}
    return shape.made(
        applied,
        holds=[[shape.of_counter[counter] for counter in each] for each in held],
        limits=[
            [
                _KIND_CODES[each.limit.kind],
                place_of_meter[each.limit.meter],
                shape.of_limit(each),
                _UNLIMITED if each.limit.value is None else each.limit.value,
                _UNLIMITED if each.limit.hard is None else each.limit.hard,
                int(each.limit.shadow),
            ]
            for each in applied
        ],
        admissions=[[place, place_of_meter[each.counter.meter]] for each, place in shape.of_window.items()],
        # Versions are those that decide: a repeated check is answered by them.
        decided_by=decided_by_to_document(entitlement.version, entitlement.period, applied) if records else "",
        scopes=pack([scope_prefix(scope) for scope in scopes]) if records else b"",
        meters=meters,
        tracked={tracks for each in applied if (tracks := each.limit.tracks) is not None},
    )


class Shapes:
    """The shapes of checks that were asked lately: one organization's checks have few of them."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[object, ...], tuple[Terms, Shape]] = OrderedDict()

    def of(self, terms: Terms, check: Check, *, records: bool) -> Shape:
        """The shape of a check."""
        # What leaves a record names all of its scopes in it; for what does not, only those that limits look at count.
        # A limit that the check brings along may look at any.
        scopes = check.visible(_ALL_PARTS if records or check.brought else terms.parts)
        key = (id(terms), records, check.brought, scopes, *[each.meter for each in check.consumptions])
        known = self._known.get(key)
        # The terms are kept, so that no others take their identity.
        if known is not None and known[0] is terms:
            return known[1]
        shape = shape_of_check(terms, check, records=records)
        self._known[key] = (terms, shape)
        if len(self._known) > _SHAPES_MAX:
            self._known.popitem(last=False)
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

    def made(
        self,
        applied: tuple[Applied, ...],
        *,
        holds: list[list[int]] | None = None,
        limits: list[list[int]] | None = None,
        admissions: list[list[int]] | None = None,
        decided_by: str = "",
        scopes: bytes = b"",
        meters: tuple[str, ...] = (),
        tracked: Collection[LevelMeter] = (),
    ) -> Shape:
        described: list[Any] = [
            [counter_field(counter) for counter in self.of_counter],
            holds or [],
            limits or [],
            [[each.window.slot_us, each.window.slots_counted] for each in self.of_window],
            admissions or [],
            decided_by,
            scopes,
            meters,
            [level_field(each) for each in tracked],
        ]
        keys = tuple(self._keys.window(each) for each in self.of_window)
        return Shape(applied, tuple(self.of_counter), tuple(self.of_window), keys, pack(described))
