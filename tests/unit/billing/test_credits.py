"""Which credits pay first, and what the journal comes to."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kit.errors import InvalidField
from kit.money import Money
from services.billing.domain.credits import (
    CreditAccount,
    CreditEntry,
    CreditGrant,
    CreditMove,
    CreditSource,
    CreditUse,
    GrantStanding,
    apply_credits,
    available_by_grant,
    balances,
    expired_of,
    require_grant,
    returns_of,
)

NOW = datetime(2027, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def grant(
    name: str, cents: int = 1000, *, priority: int = 50, expires: datetime | None = None, age: int = 0
) -> CreditGrant:
    return CreditGrant(
        grant_id=name,
        amount=Money(cents, "USD"),
        priority=priority,
        grant_time=NOW - DAY * age,
        expire_time=expires,
        source=CreditSource.OPERATOR,
    )


def standing(of: CreditGrant, available: int | None = None) -> GrantStanding:
    return GrantStanding(grant=of, available=of.amount if available is None else Money(available, "USD"))


def entry(grant_id: str, move: CreditMove, cents: int, invoice_id: str = "") -> CreditEntry:
    return CreditEntry(
        number=1,
        grant_id=grant_id,
        move=move,
        amount=Money(cents, "USD"),
        entry_time=NOW,
        invoice_id=invoice_id,
    )


def order(grants: list[CreditGrant]) -> list[str]:
    return [use.grant_id for use in apply_credits([standing(each) for each in grants], Money(10**6, "USD"), NOW)]


def test_credits_are_used_by_priority_then_expiry_then_age() -> None:
    grants = [
        grant("never"),
        grant("older", age=5),
        grant("later", expires=NOW + 9 * DAY),
        grant("soon", expires=NOW + DAY),
        grant("first", priority=1, expires=NOW + 30 * DAY),
    ]
    assert order(grants) == ["first", "soon", "later", "older", "never"]


def test_credits_pay_at_most_the_amount_and_at_most_what_is_there() -> None:
    standings = [standing(grant("a", age=2), 300), standing(grant("b", age=1), 0), standing(grant("c"), 500)]
    uses = (CreditUse("a", Money(300, "USD")), CreditUse("c", Money(100, "USD")))
    assert apply_credits(standings, Money(400, "USD"), NOW) == uses
    assert apply_credits(standings, Money(0, "USD"), NOW) == ()
    assert apply_credits(standings, Money(-5, "USD"), NOW) == ()


def test_an_expired_grant_pays_nothing_from_the_instant_of_its_expiry_on() -> None:
    expiring = grant("a", expires=NOW)
    assert apply_credits([standing(expiring)], Money(1, "USD"), NOW) == ()
    assert apply_credits([standing(expiring)], Money(1, "USD"), NOW - timedelta(microseconds=1))


def test_a_grant_pays_nothing_in_another_currency() -> None:
    assert apply_credits([standing(grant("a"))], Money(1, "EUR"), NOW) == ()


def test_a_voided_invoice_gives_back_what_it_took_once() -> None:
    journal = [
        entry("a", CreditMove.GRANT, 1000),
        entry("a", CreditMove.APPLY, 300, "inv_1"),
        entry("a", CreditMove.APPLY, 200, "inv_2"),
        entry("b", CreditMove.APPLY, 50, "inv_1"),
    ]
    back = (CreditUse("a", Money(300, "USD")), CreditUse("b", Money(50, "USD")))
    assert returns_of(journal, "inv_1") == back
    journal += [entry(use.grant_id, CreditMove.RETURN, use.amount.minor, "inv_1") for use in back]
    assert returns_of(journal, "inv_1") == ()


def test_what_credit_notes_gave_for_an_invoice_does_not_come_back_a_second_time() -> None:
    journal = [entry("a", CreditMove.APPLY, 300, "inv_1"), entry("b", CreditMove.APPLY, 50, "inv_1")]
    back = returns_of(journal, "inv_1", kept_minor=100)
    assert back == (CreditUse("a", Money(250, "USD")),)
    journal += [entry(use.grant_id, CreditMove.RETURN, use.amount.minor, "inv_1") for use in back]
    assert returns_of(journal, "inv_1", kept_minor=100) == ()
    assert returns_of(journal[:2], "inv_1", kept_minor=400) == ()


def test_the_accounts_add_up_to_zero_after_every_entry() -> None:
    journal = [
        entry("a", CreditMove.GRANT, 1000),
        entry("a", CreditMove.APPLY, 300, "inv_1"),
        entry("a", CreditMove.RETURN, 300, "inv_1"),
        entry("a", CreditMove.EXPIRE, 600),
        entry("a", CreditMove.REVOKE, 400),
    ]
    for length in range(len(journal) + 1):
        assert sum(each.minor for each in balances(journal[:length], "USD").values()) == 0
    assert balances(journal, "USD")[CreditAccount.EXPIRED] == Money(600, "USD")
    assert balances(journal, "EUR")[CreditAccount.EXPIRED] == Money(0, "EUR")
    assert available_by_grant(journal) == {"a": 0}


def test_what_expired_is_what_is_left_of_grants_whose_time_is_over() -> None:
    standings = [
        standing(grant("over", expires=NOW), 7),
        standing(grant("used", expires=NOW), 0),
        standing(grant("not yet", expires=NOW + DAY), 7),
        standing(grant("never"), 7),
    ]
    assert expired_of(standings, NOW) == (CreditUse("over", Money(7, "USD")),)


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": Money(0, "USD")},
        {"amount": Money(-1, "USD")},
        {"amount": Money(10**15 + 1, "USD")},
        {"priority": -1},
        {"priority": 101},
        {"expire_time": NOW},
        {"description": "two\nlines"},
    ],
)
def test_an_unsound_grant_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidField):
        require_grant(replace(grant("a"), **changes))  # type: ignore[arg-type]
