"""What metering refuses."""

from __future__ import annotations

from kit.errors import Refused


class UnknownMeter(Refused):
    """There is no meter {meter!r}; ListMeters names them."""

    reason = "UNKNOWN_METER"
