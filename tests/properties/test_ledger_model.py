"""The ledger against the plainest model of it: a dictionary of first contents."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kit.clock import unix_microseconds
from services.metering.adapters.memory import MemoryLedger
from services.metering.application.ports import Interval
from services.metering.domain.acceptance import Status
from services.metering.domain.events import Measurement, Subject, UsageEvent

NOW = datetime(2026, 3, 1, tzinfo=UTC)
events = st.builds(
    lambda organization_id, event_id, quantity, second: UsageEvent(
        id=event_id,
        source="tests",
        subject=Subject(organization_id=organization_id),
        event_time_ns=(unix_microseconds(NOW) - second * 1_000_000) * 1_000,
        measurements=(Measurement("api_calls", quantity),),
    ),
    st.sampled_from(["a", "b"]),
    st.sampled_from("stuvwxyz"),
    st.integers(0, 2**53 - 1),
    st.integers(0, 3),
)


class LedgerMachine(RuleBasedStateMachine):
    """Random batches with retries and conflicts."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = MemoryLedger()
        self.first: dict[tuple[str, str], tuple[UsageEvent, int]] = {}
        self.counts = {"a": 0, "b": 0}

    @rule(batch=st.lists(events, min_size=1, max_size=6))
    def append(self, batch: list[UsageEvent]) -> None:
        outcomes = asyncio.run(self.ledger.append(batch, now=NOW))
        for event, outcome in zip(batch, outcomes, strict=True):
            identity = (event.subject.organization_id, event.id)
            if identity not in self.first:
                self.counts[identity[0]] += 1
                self.first[identity] = (event, self.counts[identity[0]])
                assert (outcome.status, outcome.sequence) == (Status.ACCEPTED, self.counts[identity[0]])
            elif self.first[identity][0] == event:
                assert (outcome.status, outcome.sequence) == (Status.DUPLICATE, self.first[identity][1])
            else:
                assert outcome.status is Status.CONFLICT

    @rule(batch=st.lists(events, min_size=1, max_size=3))
    def retry_after_an_unknown_outcome(self, batch: list[UsageEvent]) -> None:
        self.append(batch)
        self.append([replace(event) for event in batch])

    @invariant()
    def totals_are_the_sums_of_first_contents(self) -> None:
        for organization_id in ("a", "b"):
            totals = asyncio.run(self.ledger.totals(organization_id, Interval(None, None), as_of_sequence=None))
            own = [event for (owner, _), (event, _) in self.first.items() if owner == organization_id]
            assert totals.quantities.get("api_calls", 0) == sum(event.measurements[0].quantity for event in own)
            assert totals.position.sequence == len(own)


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestLedgerModel = LedgerMachine.TestCase
