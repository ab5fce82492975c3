"""What the ledger records."""

from __future__ import annotations

from dataclasses import dataclass


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
    error_code: str


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


@dataclass(frozen=True, slots=True)
class LedgerEvent:
    """An event as recorded."""

    sequence: int
    commit_id: str
    receive_time_us: int
    """Unix microseconds."""
    event: UsageEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A kind of usage that can be counted."""

    name: str
    base_unit: str
    display_unit: str
    base_units_per_display_unit: int
