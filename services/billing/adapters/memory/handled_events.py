"""The Stripe event whose effect is being written, in memory."""

from __future__ import annotations

from services.billing.adapters.memory.world import World


class MemoryStripeEvents:
    """StripeEventBook over a copy of the world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def set_handled(self, event_id: str, *, attempt_count: int, outcome: str) -> bool:
        """As StripeEventBook."""
        waiting = self._world.events[event_id]
        if waiting.outcome or waiting.attempt_count != attempt_count:
            return False
        waiting.outcome = outcome
        return True
