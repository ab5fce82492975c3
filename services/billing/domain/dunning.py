"""Dunning: what happens, and when, after an invoice could not be collected.

Reminders, then suspension, then the invoice is given up. The steps are counted from the moment at which we learned that
the payment failed: only from then on could the customer be told. Each is done once; a step that a later one has
overtaken (no worker ran for days) is left out, so nobody gets three reminders at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from itertools import pairwise

from kit.errors import InvalidField
from services.billing.domain import limits
from services.billing.domain.subscriptions import PaymentStanding


class DunningAction(Enum):
    """What a step does besides writing to the customer."""

    REMIND = "REMIND"
    """Nothing else."""
    SUSPEND = "SUSPEND"
    """Checks are denied until the invoice is paid or void."""
    GIVE_UP = "GIVE_UP"
    """The invoice is uncollectible, here and at Stripe; the suspension stays."""


@dataclass(frozen=True, slots=True)
class DunningStep:
    """One step of a policy."""

    name: str
    """What it is remembered by: `REMIND_1`, `REMIND_2`, `SUSPEND`, `GIVE_UP`; not its day, which may be configured."""
    action: DunningAction
    after: timedelta
    """How long after the failed payment."""

    @property
    def is_first_reminder(self) -> bool:
        """Whether it tells of the failure itself."""
        return self.name == "REMIND_1"


@dataclass(frozen=True, slots=True)
class DunningPolicy:
    """After how many days what is done; read by `dunning_policy`, which knows the rules."""

    reminder_days: tuple[int, ...] = (0, 3, 7)
    suspension_day: int = 14
    uncollectible_day: int = 60

    def suspension_time(self, begin_time: datetime) -> datetime:
        """When what failed then suspends."""
        return begin_time + timedelta(days=self.suspension_day)

    def steps(self) -> tuple[DunningStep, ...]:
        """The steps in their order."""
        reminders = (
            DunningStep(f"REMIND_{number}", DunningAction.REMIND, timedelta(days=day))
            for number, day in enumerate(self.reminder_days, start=1)
        )
        return (
            *reminders,
            DunningStep("SUSPEND", DunningAction.SUSPEND, timedelta(days=self.suspension_day)),
            DunningStep("GIVE_UP", DunningAction.GIVE_UP, timedelta(days=self.uncollectible_day)),
        )


@dataclass(frozen=True, slots=True)
class DunningTurn:
    """What is to be done now, and when to look again."""

    step: DunningStep | None
    """None: nothing yet."""
    overtaken: tuple[str, ...]
    """Steps before it that are left out."""
    next_time: datetime | None
    """When the step after it is due; None: it is the last."""


def dunning_policy(reminder_days: str, suspension_day: int, uncollectible_day: int) -> DunningPolicy:
    """A policy from its settings: days after the failed payment, the reminders' separated by commas.

    Raises InvalidField unless the days rise from reminder to reminder, to the suspension, to giving up.
    """
    try:
        reminders = tuple(int(part) for part in reminder_days.split(",") if part.strip())
    except ValueError:
        raise InvalidField(field="dunning_reminder_days", problem="whole days separated by commas") from None
    if len(reminders) > limits.DUNNING_REMINDERS_MAX:
        raise InvalidField(field="dunning_reminder_days", problem=f"at most {limits.DUNNING_REMINDERS_MAX}")
    days = (*reminders, suspension_day, uncollectible_day)
    if any(later <= earlier for earlier, later in pairwise(days)):
        raise InvalidField(field="dunning", problem="the days must rise: reminders, suspension, uncollectible")
    if days[0] < 0 or days[-1] > limits.DUNNING_DAYS_MAX:
        raise InvalidField(field="dunning", problem=f"days from 0 to {limits.DUNNING_DAYS_MAX}")
    return DunningPolicy(reminders, suspension_day, uncollectible_day)


def next_turn(policy: DunningPolicy, begin_time: datetime, done: Collection[str], now: datetime) -> DunningTurn:
    """What dunning that began then, with these steps done or left out, does now.

    A reminder is overtaken by any later step that is due too. Suspension is never left out.
    """
    open_steps = [step for step in policy.steps() if step.name not in done]
    due = [step for step in open_steps if begin_time + step.after <= now]
    later = [begin_time + step.after for step in open_steps if step not in due]
    overtaken = tuple(step.name for step in due[:-1] if step.action is DunningAction.REMIND)
    remaining = [step for step in due if step.name not in overtaken]
    if not remaining:
        return DunningTurn(None, (), min(later, default=None))
    following = [begin_time + step.after for step in remaining[1:]] + later
    return DunningTurn(remaining[0], overtaken, min(following, default=None))


@dataclass(frozen=True, slots=True)
class Dunning:
    """The dunning of one invoice that is not paid, void or given up at the end of its steps."""

    invoice_id: str
    begin_time: datetime
    """When we learned that its payment failed."""
    is_suspending: bool
    """Whether it has come to its suspension."""
    done: frozenset[str] = frozenset()
    """The names of its steps that were done or left out."""


def standing_of(dunnings: Iterable[Dunning]) -> PaymentStanding:
    """What all unpaid invoices of an organization say about its subscription: one that has come to its suspension
    suspends, any other leaves it in grace.
    """
    open_ones = list(dunnings)
    if any(each.is_suspending for each in open_ones):
        return PaymentStanding.SUSPENDED
    return PaymentStanding.PAST_DUE if open_ones else PaymentStanding.GOOD
