"""When a declined payment is tried again, and what happens when the last try failed.

At Stripe this is set in the dashboard, for the account; here by a control. See
https://docs.stripe.com/billing/revenue-recovery/smart-retries.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tools.stripe_simulator.store import Store

_SETTING = "dunning"
_DAY_SECONDS = 86_400
# Stripe tries up to eight times, over up to two months.
_RETRIES_MAX = 8


class DunningSettings(BaseModel):
    """How many days after each failed try the next one is made, and what becomes of it all after the last."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    retry_days: tuple[int, ...] = Field(default=(3, 5, 7), max_length=_RETRIES_MAX)
    then_invoice: Literal["open", "uncollectible"] = "open"
    then_subscription: Literal["canceled", "unpaid", "past_due"] = "canceled"


def in_force(store: Store) -> DunningSettings:
    """What was set last, or Stripe's own."""
    text = store.setting(_SETTING)
    return DunningSettings() if text is None else DunningSettings.model_validate_json(text)


def put_in_force(store: Store, settings: DunningSettings) -> None:
    """From now on, for every later try; a restart keeps it."""
    store.set_setting(_SETTING, settings.model_dump_json())


def next_attempt(settings: DunningSettings, *, attempt_count: int, now: int) -> int | None:
    """When to try again after so many tries of which the last one failed now; None when that was the last."""
    if attempt_count > len(settings.retry_days):
        return None
    return now + settings.retry_days[attempt_count - 1] * _DAY_SECONDS
