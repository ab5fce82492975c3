from __future__ import annotations

import asyncio

from services.billing.adapters.stripe.pace import PAUSE_MAX_SECONDS, Pace


class Time:
    """A clock that a sleep moves."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def pace(time: Time, *, chance: float = 1.0, calls_at_once: int = 8) -> Pace:
    return Pace(calls_at_once, now=lambda: time.now, sleep=time.sleep, chance=lambda: chance)


async def call(paced: Pace) -> None:
    async with paced.turn():
        pass


async def test_nobody_waits_while_stripe_answers() -> None:
    time = Time()
    await call(pace(time))
    assert time.slept == []


async def test_after_a_429_everybody_pauses_twice_as_long_each_time_up_to_a_maximum() -> None:
    time = Time()
    paced = pace(time)
    for _ in range(12):
        paced.refused()
        await call(paced)
    assert time.slept[:4] == [0.5, 1.0, 2.0, 4.0]
    assert time.slept[-1] == PAUSE_MAX_SECONDS


async def test_a_pause_is_spread_by_chance_over_its_second_half() -> None:
    pauses = []
    for chance in (0.0, 0.5, 1.0):
        time = Time()
        paced = pace(time, chance=chance)
        paced.refused()
        await call(paced)
        pauses += time.slept
    assert pauses == [0.25, 0.375, 0.5]


async def test_an_answer_makes_the_next_pause_short_again() -> None:
    time = Time()
    paced = pace(time)
    for _ in range(3):
        paced.refused()
    await call(paced)
    paced.answered()
    paced.refused()
    await call(paced)
    assert time.slept[-1] == 0.5


async def test_only_so_many_call_at_once() -> None:
    paced, running, most = Pace(3), [0], [0]

    async def work() -> None:
        async with paced.turn():
            running[0] += 1
            most[0] = max(most[0], running[0])
            await asyncio.sleep(0)
            running[0] -= 1

    await asyncio.gather(*(work() for _ in range(20)))
    assert most == [3]
