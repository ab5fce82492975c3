"""An organization's subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.billing.domain.subscriptions import PaymentStanding, Subscription
from services.billing.domain.timeline import Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Who does what to a subscription, as the change log keeps it."""

    action: str
    """The command's name, such as `change_plan`."""
    actor: str
    request_id: str
    """Empty: time did it."""
    now: datetime


class SubscriptionReader(Protocol):
    """The subscriptions in one organization's books."""

    async def in_force(self) -> Subscription | None:
        """The one subscription in force; None before the first. It is as it was written last: what its timeline has
        scheduled since (`next_change_time` has passed) is not in force before `change` or `begin` says so.
        """
        ...

    async def get(self, subscription_id: str) -> Subscription:
        """One subscription, in force or not. Raises NotFound."""
        ...

    async def timeline(self, subscription_id: str) -> Timeline:
        """Everything one subscription was and will be. Raises NotFound."""
        ...

    async def timelines(self) -> Sequence[Timeline]:
        """Those of all subscriptions, in the order in which they were begun."""
        ...


class SubscriptionBook(SubscriptionReader, Protocol):
    """The same, open for writing. What is written is an entry of the change log, and puts the subscription's next
    change on the list of what is due, or takes it off.
    """

    async def begin(self, timeline: Timeline, act: Act) -> Subscription:
        """Puts a new subscription in force, and ends the one that was where this one starts, or where that one starts
        itself when this is earlier. Answers it with its entitlement_version: the number of the entry that says so in
        the change log.
        """
        ...

    async def change(self, timeline: Timeline, standing: PaymentStanding, act: Act) -> Subscription:
        """Makes this the timeline of the subscription in force, whose history it shares, and puts in force what it has
        at `act.now`; where its end has passed, what it had last, until another subscription is begun. Phases that are
        no longer in it are kept as superseded. When another plan or status than before is in force, the entry is an
        entitlement; else it is of another kind.
        """
        ...
