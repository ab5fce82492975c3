"""Enumerations that are looked up often."""

from __future__ import annotations

from enum import Enum


class IdentityEnum(Enum):
    """Members hash by identity, which tells them apart as well. Enum itself hashes their names, in Python, for every
    look into a dictionary.
    """

    __hash__ = object.__hash__
