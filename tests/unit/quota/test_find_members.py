from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from services.quota.application.find_members import FindMembers
from services.quota.application.ports import Ranking
from services.quota.domain.entitlements import Period
from services.quota.domain.limits import LevelMeter, Limit, LimitKind, LimitScope, ScopeKind, Window, WindowStyle
from services.quota.domain.terms import Terms
from tests.unit.quota.samples import AGENTS, MINUTES, entitlement, terms


class Directory:
    """Members that takes a second to answer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[tuple[tuple[Ranking, ...], int]] = []

    def clock(self) -> float:
        return self.now

    async def rank(
        self,
        organization_id: str,  # noqa: ARG002 - as the port
        period: Period,  # noqa: ARG002 - as the port
        rankings: Collection[Ranking],
        *,
        at_most: int,
    ) -> Mapping[Ranking, Sequence[str]]:
        self.now += 1
        self.asked.append((tuple(rankings), at_most))
        return {ranking: ["ann"] for ranking in rankings}


def each_user(name: str, kind: LimitKind = LimitKind.PERIOD, *, meter: str = MINUTES, user: str | None = None) -> Limit:
    window = Window(1_000_000, WindowStyle.FIXED) if kind is LimitKind.WINDOW else None
    return Limit(name, LimitScope(ScopeKind.USER, user), meter, kind, 5, 0, window)


def with_limits(*limits: Limit) -> Terms:
    return terms(entitlement("acme"), *limits)


async def test_a_search_is_repeated_only_after_twenty_times_its_own_time() -> None:
    directory = Directory()
    find, limited = FindMembers(directory, clock=directory.clock), with_limits(each_user("a"))
    await find(limited)
    directory.now += 19.9
    await find(limited)
    assert len(directory.asked) == 1
    directory.now += 0.1
    await find(limited)
    assert len(directory.asked) == 2


async def test_other_terms_are_searched_for_at_once() -> None:
    directory = Directory()
    find = FindMembers(directory, clock=directory.clock)
    await find(with_limits(each_user("a")))
    await find(with_limits(each_user("a")))
    assert len(directory.asked) == 2


async def test_only_limits_of_each_member_are_searched_for_and_equal_ones_once() -> None:
    directory = Directory()
    find = FindMembers(directory, clock=directory.clock)
    of_minutes, of_agents = LevelMeter(ScopeKind.USER, MINUTES), LevelMeter(ScopeKind.USER, AGENTS)
    found = await find(
        with_limits(
            each_user("a"),
            each_user("b"),
            each_user("c", LimitKind.CONCURRENCY, meter=AGENTS),
            each_user("d", user="ann"),
            each_user("e", LimitKind.WINDOW),
        )
    )
    assert list(found) == [Ranking(of_minutes), Ranking(of_agents, held_alone=True)]
    assert await find(with_limits(each_user("d", user="ann"))) == {}
    assert len(directory.asked) == 1


async def test_many_such_limits_share_what_is_listed_in_all() -> None:
    directory = Directory()
    find = FindMembers(directory, clock=directory.clock)
    await find(with_limits(*[each_user(str(number)) for number in range(10)]))
    await find(with_limits(*[each_user(str(number)) for number in range(200)]))
    assert [at_most for _, at_most in directory.asked] == [100, 5]
