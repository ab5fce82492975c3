"""All of quota's stores over Redis."""

from __future__ import annotations

from kit.breaker import Breaker
from kit.redis.client import Commands
from services.quota.adapters.redis_counters.calls import Calls
from services.quota.adapters.redis_counters.checks import RedisChecks
from services.quota.adapters.redis_counters.members import RedisMembers
from services.quota.adapters.redis_counters.reservations import RedisReservations
from services.quota.adapters.redis_counters.shelf import RedisShelf
from services.quota.adapters.redis_counters.upkeep import RedisUpkeep


class RedisCounters(RedisChecks, RedisReservations, RedisMembers, RedisUpkeep, RedisShelf):
    """Counters, Reservations, Members, CounterUpkeep, CounterAudit, Expiries and TermsShelf. Atomic by one script per
    method, unless a port says otherwise.
    """

    def __init__(self, client: Commands, *, command_seconds: float, breaker: Breaker | None = None) -> None:
        """command_seconds: how long to wait for the answer to one command; breaker: while it is open none is sent."""
        super().__init__(Calls(client, command_seconds=command_seconds, breaker=breaker))
