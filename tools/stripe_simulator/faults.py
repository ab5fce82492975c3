"""Failures on demand. They live in memory: a restarted simulator behaves."""

import asyncio
import fnmatch
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tools.stripe_simulator.errors import api_error, lock_timeout, rate_limited

_COUNT_MAX = 10_000
_SECONDS_MAX = 120
_SKEW_SECONDS_MAX = 86_400
FAULTS_MAX = 100


class TooManyFaults(Exception):
    """At most 100 call faults wait at once."""


class CallFault(BaseModel):
    """The next `count` calls of `method` on `path` (a shell pattern, such as `/v1/invoices/*/pay`) go wrong.

    Kinds: `429`, `409` and `500` are answered before any work and not kept under the idempotency key;
    `500_saved` is kept, so that a retry gets it again, as Stripe does when a call failed half-way;
    `timeout_after_success` does the work and says nothing for `seconds`; `slow` waits `seconds`, then works.
    """

    model_config = ConfigDict(extra="forbid")

    method: Literal["GET", "POST", "DELETE"] = "POST"
    path: str = Field(pattern=r"^/v1/")
    kind: Literal["429", "409", "500", "500_saved", "timeout_after_success", "slow"]
    count: int = Field(default=1, ge=1, le=_COUNT_MAX)
    seconds: float = Field(default=20, ge=0, le=_SECONDS_MAX)

    async def strike(self) -> None:
        """What happens before the work: a wait, an error, or nothing."""
        match self.kind:
            case "429":
                raise rate_limited()
            case "409":
                raise lock_timeout()
            case "500":
                raise api_error(saved=False)
            case "slow":
                await asyncio.sleep(self.seconds)

    def fail_work(self) -> None:
        """What happens once the work began."""
        if self.kind == "500_saved":
            raise api_error(saved=True)


class WebhookFaults(BaseModel):
    """How webhooks misbehave, until told otherwise.

    `hold` delivers nothing, `duplicate` delivers everything twice, `shuffle` delivers in random order, `thin` delivers
    as API v2 does, without the object, `lose` never delivers what falls due meanwhile, `skew_seconds` signs by a clock
    that is so much ahead (or, negative, behind), and `new_secret` signs with that one as well, as Stripe does while a
    secret is rolled.
    """

    model_config = ConfigDict(extra="forbid")

    hold: bool = False
    duplicate: bool = False
    shuffle: bool = False
    thin: bool = False
    lose: bool = False
    skew_seconds: int = Field(default=0, ge=-_SKEW_SECONDS_MAX, le=_SKEW_SECONDS_MAX)
    new_secret: str | None = Field(default=None, min_length=1)


class FaultPlan(BaseModel):
    """What a caller injects: more call faults, and webhooks' new behaviour; absent means unchanged."""

    model_config = ConfigDict(extra="forbid")

    calls: list[CallFault] = Field(default_factory=list, max_length=FAULTS_MAX)
    webhooks: WebhookFaults | None = None


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        self.calls: list[CallFault] = []
        self.webhooks = WebhookFaults()

    def inject(self, plan: FaultPlan) -> None:
        """Adds to what is in force; raises TooManyFaults beyond the limit."""
        if len(self.calls) + len(plan.calls) > FAULTS_MAX:
            raise TooManyFaults
        self.calls = [*self.calls, *plan.calls]
        if plan.webhooks is not None:
            self.webhooks = plan.webhooks

    def clear(self) -> None:
        """All is well again."""
        self.calls = []
        self.webhooks = WebhookFaults()

    def take(self, method: str, path: str) -> CallFault | None:
        """The fault that this call meets, counted down; the one injected first comes first."""
        for fault in self.calls:
            if fault.method == method and fnmatch.fnmatchcase(path, fault.path):
                fault.count -= 1
                if fault.count == 0:
                    self.calls.remove(fault)
                return fault
        return None
