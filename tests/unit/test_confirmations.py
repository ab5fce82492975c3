from __future__ import annotations

from collections.abc import Mapping

import pytest

from kit.confirmations import CONFIRMED_AT_ONCE, Confirmations
from kit.errors import DependencyUnavailable
from kit.feed import Position


class Owner:
    """Of a log, who keeps what was confirmed last."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Position]] = []
        self.is_down = False

    async def take(self, positions: Mapping[str, Position]) -> None:
        if self.is_down:
            raise DependencyUnavailable(dependency="the owner")
        self.calls.append(dict(positions))


async def test_the_last_position_of_each_key_is_confirmed_once() -> None:
    owner = Owner()
    confirmations = Confirmations(owner.take)
    confirmations.note("a", Position(1, "x"))
    confirmations.note("a", Position(2, "y"))
    confirmations.note("b", Position(7, "z"))
    await confirmations.confirm()
    confirmations.note("a", Position(2, "y"))
    await confirmations.confirm()
    assert owner.calls == [{"a": Position(2, "y"), "b": Position(7, "z")}]


async def test_a_key_that_began_anew_is_confirmed_further_back() -> None:
    owner = Owner()
    confirmations = Confirmations(owner.take)
    for position in (Position(9, "x"), Position(0, "")):
        confirmations.note("a", position)
        await confirmations.confirm()
    assert owner.calls == [{"a": Position(9, "x")}, {"a": Position(0, "")}]


async def test_what_the_owner_may_have_lost_is_said_again_with_the_latest_position() -> None:
    owner = Owner()
    confirmations = Confirmations(owner.take)
    confirmations.note("rests", Position(1, "x"))
    confirmations.note("moves", Position(1, "y"))
    await confirmations.confirm()
    confirmations.note("moves", Position(2, "z"))
    confirmations.repeat()
    await confirmations.confirm()
    assert owner.calls[1:] == [{"rests": Position(1, "x"), "moves": Position(2, "z")}]


async def test_what_could_not_be_confirmed_is_confirmed_later() -> None:
    owner = Owner()
    confirmations = Confirmations(owner.take)
    confirmations.note("a", Position(1, "x"))
    owner.is_down = True
    with pytest.raises(DependencyUnavailable):
        await confirmations.confirm()
    owner.is_down = False
    confirmations.note("b", Position(2, "y"))
    await confirmations.confirm()
    assert owner.calls == [{"a": Position(1, "x"), "b": Position(2, "y")}]


async def test_many_keys_are_confirmed_in_several_calls() -> None:
    owner = Owner()
    confirmations = Confirmations(owner.take)
    for number in range(2 * CONFIRMED_AT_ONCE + 1):
        confirmations.note(str(number), Position(1, "x"))
    await confirmations.confirm()
    assert [len(call) for call in owner.calls] == [CONFIRMED_AT_ONCE, CONFIRMED_AT_ONCE, 1]
