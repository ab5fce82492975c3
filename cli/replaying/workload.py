"""How a trace becomes work: whose each row is, how long its agent ran and which provider it called.

The mapping is fixed, so that anyone can recompute a replay from the trace alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cli.trace import TICK_NANOSECONDS, TraceRow

ORGANIZATIONS = ("A", "B", "C")
PLANS = {"A": "starter", "B": "pro", "C": "enterprise"}

# Of ten rows in turn.
_ORGANIZATION_OF_TEN = "AAAAAAABBC"
_PROVIDERS = ("openai_codex", "github_copilot", "google_code_assist")
_AGENT_MS_AT_LEAST = 10_000
_AGENT_MS_PER_GENERATED_TOKEN = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One agent task of an organization."""

    row: int
    """Its row in the trace, from 0."""
    organization: str
    offset_nanoseconds: int
    """How long after the first row it happened."""
    agent_ms: int
    provider: str
    tokens_input: int
    tokens_output: int


def tasks_of(rows: Sequence[TraceRow]) -> list[Task]:
    """One task per row, in order."""
    return [
        Task(
            row=number,
            organization=_ORGANIZATION_OF_TEN[number % 10],
            offset_nanoseconds=row.offset_ticks * TICK_NANOSECONDS,
            agent_ms=_AGENT_MS_AT_LEAST + _AGENT_MS_PER_GENERATED_TOKEN * row.generated_tokens,
            provider=_PROVIDERS[number % 3],
            tokens_input=row.context_tokens,
            tokens_output=row.generated_tokens,
        )
        for number, row in enumerate(rows)
    ]
