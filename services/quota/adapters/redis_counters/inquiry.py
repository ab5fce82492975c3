"""Checks as check.lua is asked them: each refers to what it shares with others, and to the record that it may leave."""

from __future__ import annotations

from collections.abc import Sequence

from services.quota.adapters.redis_counters.keys import keys_of
from services.quota.adapters.redis_counters.shapes import Shape, Shapes
from services.quota.domain.checks import Check, Mode, content_digest
from services.quota.domain.terms import Terms

_MODE_CODES = {Mode.DECIDE: 0, Mode.RESERVE: 1, Mode.CONSUME: 2}
_EXTEND_CODE = 3
_REGISTER_CODE = 4
_GATE = -1
_FIRST_KEY = 6
"""The place of the first key that is not the organization's own, as Lua counts."""


class Inquiry:
    """Keys and checks of one call. Without checks: the shapes alone, to be read. `extends`: they are targets of
    reservations. `registers`: they were granted already, and these are their digests, in order.
    """

    def __init__(
        self,
        terms: Terms,
        checks: Sequence[Check],
        known: Shapes,
        shapes: Sequence[Shape] = (),
        *,
        extends: bool = False,
        registers: Sequence[str] | None = None,
    ) -> None:
        self._code = _EXTEND_CODE if extends else _REGISTER_CODE if registers is not None else None
        self.shapes = list(shapes)
        self.shapes_of_checks: list[Shape] = []
        places: list[int] = []
        place_of: dict[int, int] = {}
        for check in checks:
            shape = known.of(terms, check, records=_leaves_record(check))
            place = place_of.get(id(shape))
            if place is None:
                self.shapes.append(shape)
                place = place_of[id(shape)] = len(self.shapes)
            places.append(place)
            self.shapes_of_checks.append(shape)
        self.keys = [key for shape in self.shapes for key in shape.window_keys]
        self._records: dict[str, int] = {}
        # What a reservation that is made anew was first asked with is not known: any retry of that gets its answer.
        digests = registers if registers is not None else ["" if extends else None] * len(checks)
        self.checks = [
            self._packable(check, place, digest) for check, place, digest in zip(checks, places, digests, strict=True)
        ]

    def _packable(self, check: Check, shape_place: int, digest: str | None) -> list[object]:
        quantities = [_GATE if each.quantity is None else each.quantity for each in check.consumptions]
        if not _leaves_record(check):
            return [shape_place, quantities, _MODE_CODES[check.mode], 0, 0]
        place = self._records.get(check.request_id)
        if place is None:
            self.keys.append(keys_of(check.organization_id).reservation(check.request_id))
            place = self._records[check.request_id] = _FIRST_KEY + len(self.keys) - 1
        return [
            shape_place,
            quantities,
            _MODE_CODES[check.mode] if self._code is None else self._code,
            check.reserve_us,
            place,
            check.request_id,
            content_digest(check) if digest is None else digest,
            check.owner,
        ]


def _leaves_record(check: Check) -> bool:
    return check.mode is Mode.RESERVE or (check.mode is Mode.CONSUME and bool(check.request_id))
