"""An organization in a store of quota, for the suites of its promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kit.feed import START, Position
from kit.redis.client import Commands
from services.quota.adapters.memory import MemoryCounters
from services.quota.adapters.redis_counters.keys import keys_of
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import Answer, InForce, Overrun
from services.quota.domain.checks import Check, Consumption, Mode, Subject
from services.quota.domain.limits import (
    ORGANIZATION,
    Counter,
    Limit,
    LimitKind,
    LimitScope,
    Scope,
    ScopeKind,
    Usage,
    Window,
    WindowStyle,
)
from services.quota.domain.terms import OwnLimits, Terms
from services.quota.domain.usage import UsageEntry, tally
from services.quota.domain.windows import WindowCounter
from tests.unit.quota.samples import (
    CALLS,
    HOUR_US,
    MINUTES,
    entitlement,
)

DAY = Window(86_400_000_000, WindowStyle.FIXED)
SLIDING_DAY = Window(86_400_000_000, WindowStyle.SLIDING)
SECOND = Window(1_000_000, WindowStyle.FIXED)
ANN, BOB = Scope(ScopeKind.USER, "ann"), Scope(ScopeKind.USER, "bob")


def user_limit(
    value: int, *, meter: str = MINUTES, kind: LimitKind = LimitKind.PERIOD, user: str | None = None
) -> Limit:
    return Limit(f"user-{meter}-{user}", LimitScope(ScopeKind.USER, user), meter, kind, value, 0)


def rate_limit(value: int | None, window: Window = DAY, *, name: str = "rate", shadow: bool = False) -> Limit:
    scope = LimitScope(ScopeKind.ORGANIZATION)
    return Limit(name, scope, CALLS, LimitKind.WINDOW, value, 0, window, shadow=shadow)


@dataclass
class House:
    """An organization that no other test uses, with terms in force and counters at 0."""

    store: MemoryCounters | RedisCounters
    terms: Terms
    commands: Commands | None = None
    """To the store, where it is Redis."""

    async def begin(self, *limits: Limit, own: tuple[Limit, ...] = ()) -> None:
        """Puts limits in force: the plan's and the organization's own."""
        organization_id = self.terms.organization_id
        entitled = await self.store.put(InForce(entitlement(organization_id, *limits), START))
        mine = OwnLimits(organization_id=organization_id, sequence=1, commit_id="c1", limits=own)
        self.terms = Terms(entitled, await self.store.put_limits(mine))
        assert await self.store.reset(entitled, expected=None, position=START, tracked=self.terms.tracked, used={})

    def asks(
        self, quantities: Mapping[str, int | None], mode: Mode = Mode.DECIDE, request_id: str = "", **subject: str
    ) -> Check:
        return Check(
            request_id=request_id,
            subject=Subject(organization_id=self.terms.organization_id, **subject),
            consumptions=tuple(Consumption(meter, quantities[meter]) for meter in sorted(quantities)),
            mode=mode,
            reserve_us=HOUR_US if mode is Mode.RESERVE else 0,
        )

    async def check(
        self, quantities: Mapping[str, int | None], mode: Mode = Mode.DECIDE, request_id: str = "", **subject: str
    ) -> Answer:
        return await self.store.check(self.asks(quantities, mode, request_id, **subject), self.terms)

    async def reserve(self, request_id: str, minutes: int, **subject: str) -> Answer:
        return await self.check({MINUTES: minutes}, Mode.RESERVE, request_id, **subject)

    async def usage(self, scope: Scope, meter: str = MINUTES) -> Usage:
        counter = Counter(scope, meter)
        return (await self.store.read(self.terms, [counter])).usage[counter]

    async def rate(self, window: Window = DAY) -> int:
        counter = WindowCounter(Counter(ORGANIZATION, CALLS), window)
        return (await self.store.read(self.terms, [], [counter])).rates[counter].quantity

    async def apply(self, *entries: UsageEntry) -> Overrun | None:
        state = await self.store.state(self.terms.organization_id)
        assert state is not None
        position = Position(state.position.sequence + len(entries), "commit")
        return await self.store.apply(
            self.terms.organization_id, tally(entries, state.period, state.tracked), expected=state, position=position
        )

    async def lose_holds(self) -> None:
        """As when Redis evicts what is held, and the next who asks rebuilds it: a new epoch begins."""
        organization_id = self.terms.organization_id
        if isinstance(self.store, MemoryCounters):
            self.store.lose_holds(organization_id)
        elif self.commands is not None:
            await self.commands.execute_command("DEL", keys_of(organization_id).held)
        state = await self.store.state(organization_id)
        assert state is not None
        assert await self.store.reset(
            self.terms.entitlement, expected=state, position=state.position, tracked=state.tracked, used={}
        )

    async def position(self) -> Position:
        state = await self.store.state(self.terms.organization_id)
        assert state is not None
        return state.position
