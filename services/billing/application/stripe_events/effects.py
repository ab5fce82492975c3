"""What a handler of a Stripe event answers.

A handler asks Stripe what is so now, with no lock held, and answers either that there is nothing to do, or what to do
in one organization's books; the worker opens them, does it, and marks the event handled in the same transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.billing.application.ports.books import Book
from services.billing.application.ports.stripe_events import DueEvent

ACTOR = "stripe"
"""Who did it, in the change log."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """The event has no effect, or its effect is done already by a use case that can be repeated."""

    outcome: str
    """Why, for who reads the inbox."""


@dataclass(frozen=True, slots=True)
class Effect:
    """Something to write in one organization's books."""

    organization_id: str
    apply: Callable[[Book], Awaitable[str]]
    """Writes it and answers the outcome. It may run more than once, each time in books where nothing of it is written;
    NotFound means that what it is about is not ours.
    """


Handler = Callable[[DueEvent], Awaitable[Nothing | Effect]]
