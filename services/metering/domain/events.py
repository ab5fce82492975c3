"""What the ledger records."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose usage: the organization and, as far as known, the part of it; empty means not known."""

    organization_id: str
    project_id: str = ""
    team_id: str = ""
    user_id: str = ""
    agent_id: str = ""
    task_id: str = ""
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A quantity in the meter's base unit."""

    meter: str
    quantity: int


class CallOutcome(IntEnum):
    """How a provider call ended; the numbers are those of the contract and of the ledger."""

    UNSPECIFIED = 0
    SUCCESS = 1
    FAILURE = 2
    CANCELLED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCall:
    """One call to a model provider; the token classes are disjoint."""

    provider: str
    model: str
    operation: str
    tokens_input_uncached: int
    tokens_cache_read: int
    tokens_cache_write: int
    tokens_output: int
    tokens_reasoning: int
    latency_ns: int | None
    outcome: int
    """A CallOutcome, once it is known to be sound."""
    error_code: str


class TaskOutcome(IntEnum):
    """How a task ended; the numbers are those of the contract and of the ledger."""

    UNSPECIFIED = 0
    SUCCEEDED = 1
    FAILED = 2
    CANCELLED = 3


@dataclass(frozen=True, slots=True)
class EventRef:
    """An event of the same organization, by its identity."""

    source: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEvent:
    """Something that happened, identified by (organization, source, id)."""

    id: str
    source: str
    subject: Subject
    event_time_ns: int | None
    """Unix nanoseconds; None: not sent."""
    measurements: tuple[Measurement, ...]
    """By meter name: their order carries no meaning."""
    provider_call: ProviderCall | None = None
    reservation_id: str = ""
    reservation_final: bool = False
    reversal_of: EventRef | None = None
    """The event that this one takes back as a whole. Such an event has an organization and nothing else of its own."""
    task_outcome: int = TaskOutcome.UNSPECIFIED
    """A TaskOutcome, once it is known to be sound."""
    labels: tuple[tuple[str, str], ...] = ()
    """Key and value, by key: their order carries no meaning."""
    is_backfill: bool = field(default=False, compare=False)
    """Whether it may be older than the time window. It says how the event came and not what it says: the ledger does
    not keep it.
    """

    @property
    def held_bytes(self) -> int:
        """What it takes in memory, roughly: the objects around its texts weigh more than these."""
        entries = len(self.measurements) + 2 * len(self.labels) + (5 if self.provider_call else 0)
        return 1_000 + 200 * entries + len(self.id)


@dataclass(frozen=True, slots=True)
class LedgerEvent:
    """An event as recorded."""

    sequence: int
    commit_id: str
    receive_time_us: int
    """Unix microseconds."""
    event: UsageEvent
    """As sent, with its organization filled in."""
    reversed: UsageEvent | None = None
    """With a reversal: what it takes back, as that was recorded."""

    @property
    def counted(self) -> UsageEvent:
        """What totals add up: the event; for a reversal what it takes back, negated, under the reversal's identity."""
        if self.reversed is None:
            return self.event
        return replace(negated(self.reversed), id=self.event.id, source=self.event.source)


def negated(event: UsageEvent) -> UsageEvent:
    """The same event with every quantity negated: those of its measurements, and the tokens and latency of its call.
    Negated again it is the event as it was.
    """
    call = event.provider_call
    return replace(
        event,
        measurements=tuple(Measurement(each.meter, -each.quantity) for each in event.measurements),
        provider_call=None
        if call is None
        else replace(
            call,
            tokens_input_uncached=-call.tokens_input_uncached,
            tokens_cache_read=-call.tokens_cache_read,
            tokens_cache_write=-call.tokens_cache_write,
            tokens_output=-call.tokens_output,
            tokens_reasoning=-call.tokens_reasoning,
            latency_ns=None if call.latency_ns is None else -call.latency_ns,
        ),
    )
