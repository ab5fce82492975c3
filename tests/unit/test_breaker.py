from __future__ import annotations

from kit.breaker import FAILURES_MAX, OPEN_SECONDS, Breaker


class Held:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def opened(now: Held) -> Breaker:
    breaker = Breaker(now=now)
    for _ in range(FAILURES_MAX):
        assert breaker.admits()
        breaker.failed()
    return breaker


def test_fewer_failures_than_three_in_a_row_keep_it_closed() -> None:
    breaker = Breaker(now=Held())
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.answered()
    assert breaker.admits()


def test_the_third_failure_in_a_row_opens_it_for_half_a_second() -> None:
    now = Held()
    breaker = opened(now)
    assert not breaker.admits()
    now.seconds += OPEN_SECONDS - 0.01
    assert not breaker.admits()
    now.seconds += 0.01
    assert breaker.admits()


def test_one_probe_alone_is_let_through() -> None:
    now = Held()
    breaker = opened(now)
    now.seconds += OPEN_SECONDS
    assert [breaker.admits() for _ in range(3)] == [True, False, False]


def test_a_probe_that_is_answered_closes_it() -> None:
    now = Held()
    breaker = opened(now)
    now.seconds += OPEN_SECONDS
    assert breaker.admits()
    breaker.answered()
    assert all(breaker.admits() for _ in range(3))


def test_a_probe_that_fails_opens_it_anew() -> None:
    now = Held()
    breaker = opened(now)
    now.seconds += OPEN_SECONDS
    assert breaker.admits()
    breaker.failed()
    assert not breaker.admits()
    now.seconds += OPEN_SECONDS
    assert breaker.admits()


def test_a_probe_whose_caller_gives_up_lets_the_next_one_try() -> None:
    now = Held()
    breaker = opened(now)
    now.seconds += OPEN_SECONDS
    assert breaker.admits()
    breaker.abandoned()
    assert breaker.admits()


def test_what_was_asked_before_it_opened_and_fails_later_does_not_put_the_probe_off() -> None:
    now = Held()
    breaker = opened(now)
    now.seconds += OPEN_SECONDS - 0.01
    breaker.failed()
    now.seconds += 0.01
    assert breaker.admits()
