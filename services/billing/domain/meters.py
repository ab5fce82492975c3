"""Meters, as far as billing needs them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A kind of usage, as metering knows it."""

    name: str
    display_unit: str
    base_units_per_display_unit: int
