"""Denials that are given again to the very same question, byte for byte: without reading it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from kit.grpc.call import Principal
from kit.recent import Recent
from services.quota.domain.maxima import REMEMBERED_DENIALS_MAX, REPEATED_DENIAL_BYTES_MAX

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,127}")
# The tag of a CheckRequest's first field, its request_id, whose length follows in one byte.
_ID_TAG = 0x0A
_HEAD_BYTES = 2

Key = tuple[str, str, bool, bytes]


class RepeatedDenial(NamedTuple):
    """A denial as it is sent."""

    response: bytes
    metadata: tuple[tuple[str, str], ...]
    """For the REST edge."""
    again: Callable[[], bool]
    """Whether it may be given once more; then it counts as given."""


class RepeatedDenials:
    """By caller and request. A caller is one key: what it may ask about is not looked at again."""

    def __init__(self) -> None:
        self._denials = Recent[Key, RepeatedDenial](REMEMBERED_DENIALS_MAX)

    def key(self, principal: Principal, request: bytes) -> Key | None:
        """What a request is known by: all of it but the value of its request_id, which decides nothing where nothing is
        held. None: it is to be read, and not remembered.
        """
        # What no message of ours knows is part of it, too: a caller decides how long it is.
        if len(request) > REPEATED_DENIAL_BYTES_MAX:
            return None
        if len(request) < _HEAD_BYTES or request[0] != _ID_TAG:
            return principal.name, principal.organization_id, False, request
        ends = _HEAD_BYTES + request[1]
        if _REQUEST_ID.fullmatch(request, _HEAD_BYTES, ends) is None:
            return None
        return principal.name, principal.organization_id, True, request[ends:]

    def find(self, key: Key) -> RepeatedDenial | None:
        """The denial that may be given again; None: none."""
        denial = self._denials.get(key)
        if denial is None or denial.again():
            return denial
        self._denials.drop(key)
        return None

    def keep(self, key: Key, denial: RepeatedDenial) -> None:
        """Remembers it, if it is short."""
        if len(denial.response) <= REPEATED_DENIAL_BYTES_MAX:
            self._denials.put(key, denial)
