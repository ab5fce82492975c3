"""What billing keeps for a while only: nothing of it is money, and all of it is told elsewhere for good."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum


class Leftover(Enum):
    """What is let go of."""

    REQUESTS = "REQUESTS"
    """The callers' ids of requests that were done; what a retry is told. Counted from the request."""
    STRIPE_EVENTS = "STRIPE_EVENTS"
    """Events of Stripe's that were handled. Counted from then."""
    MAILS = "MAILS"
    """Mails that are no longer to be sent. Counted from when that was so."""


KEPT: Mapping[Leftover, timedelta] = {
    # Longer than a year, so that a job of the operator's that takes its ids from the calendar does nothing twice.
    Leftover.REQUESTS: timedelta(days=400),
    # Stripe shows, and sends again, the events of 30 days.
    Leftover.STRIPE_EVENTS: timedelta(days=90),
    Leftover.MAILS: timedelta(days=400),
}
"""How long each is kept. The database itself lets no request and no mail go that is younger than 90 days."""
