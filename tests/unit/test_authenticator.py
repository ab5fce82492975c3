"""What is believed of a key while accounts is slow, silent or away."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from kit.errors import CredentialInvalid, DependencyUnavailable
from kit.grpc import identity
from kit.grpc.call import CallerKind, Principal
from kit.grpc.identity import Authenticator

KEY = "Bearer tb_live_1"
ACME = Principal(CallerKind.TENANT, "key-1", "acme")


class Accounts:
    """A directory whose answers wait until they are let go; each is as old as its question."""

    def __init__(self) -> None:
        self.principal: Principal | None = ACME
        self.answers = asyncio.Event()
        self.answers.set()
        self.is_away = False
        self.asked = 0

    async def look_up(self, key_sha256: bytes) -> Principal | None:
        assert key_sha256 == hashlib.sha256(b"tb_live_1").digest()
        self.asked += 1
        principal = self.principal
        await self.answers.wait()
        if self.is_away:
            raise DependencyUnavailable(dependency="accounts")
        return principal


class Time:
    """A monotonic clock that is moved by hand."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    held = Time()
    monkeypatch.setattr(identity, "time", held)
    monkeypatch.setattr(identity, "PATIENCE_SECONDS", 0.05)
    return held


async def test_while_accounts_is_silent_a_known_key_is_served_without_waiting_again(time: Time) -> None:
    accounts = Accounts()
    authenticator = Authenticator(accounts, {})
    assert await authenticator.authenticate(KEY) == ACME
    accounts.answers.clear()
    time.now += 1
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert [await authenticator.authenticate(KEY) for _ in range(20)] == [ACME] * 20
    assert loop.time() - began < 0.5  # one wait of 0.05 s, not twenty
    assert accounts.asked == 2
    accounts.answers.set()


async def test_the_first_answer_after_a_silence_is_believed_at_once(time: Time) -> None:
    accounts = Accounts()
    authenticator = Authenticator(accounts, {})
    await authenticator.authenticate(KEY)
    accounts.answers.clear()
    time.now += 1
    accounts.principal = None
    assert await authenticator.authenticate(KEY) == ACME
    accounts.answers.set()
    await asyncio.sleep(0.01)
    with pytest.raises(CredentialInvalid):
        await authenticator.authenticate(KEY)


async def test_a_known_key_outlives_the_absence_of_accounts_for_five_minutes_and_no_longer(time: Time) -> None:
    accounts = Accounts()
    authenticator = Authenticator(accounts, {})
    await authenticator.authenticate(KEY)
    accounts.is_away = True
    time.now += identity.BELIEVED_WHEN_UNAVAILABLE_SECONDS - 1
    assert await authenticator.authenticate(KEY) == ACME
    time.now += 1
    with pytest.raises(DependencyUnavailable):
        await authenticator.authenticate(KEY)


async def test_a_call_does_not_take_over_the_answer_to_a_question_older_than_what_may_be_believed(time: Time) -> None:
    accounts = Accounts()
    authenticator = Authenticator(accounts, {})
    accounts.answers.clear()
    early = asyncio.create_task(authenticator.authenticate(KEY))
    await asyncio.sleep(0.001)
    time.now += 2
    accounts.principal = None  # revoked, while the first question is still on its way
    late = asyncio.create_task(authenticator.authenticate(KEY))
    await asyncio.sleep(0.001)
    accounts.answers.set()
    assert await early == ACME
    with pytest.raises(CredentialInvalid):
        await late


async def test_a_late_answer_is_believed_from_when_it_was_asked(time: Time) -> None:
    accounts = Accounts()
    authenticator = Authenticator(accounts, {})
    accounts.answers.clear()
    first = asyncio.create_task(authenticator.authenticate(KEY))
    await asyncio.sleep(0.001)
    time.now += 0.7
    second = asyncio.create_task(authenticator.authenticate(KEY))
    await asyncio.sleep(0.001)
    accounts.principal = None
    accounts.answers.set()
    assert [await first, await second] == [ACME, ACME]
    time.now += 0.2
    with pytest.raises(CredentialInvalid):
        await authenticator.authenticate(KEY)
