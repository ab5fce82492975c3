"""What a replay must find, computed from the trace alone.

Written a second time on purpose: nothing of the services or of the replay is imported, and all arithmetic is in
integers and fractions.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

_ROWS_OF_TEN = {0: "A", 1: "A", 2: "A", 3: "A", 4: "A", 5: "A", 6: "A", 7: "B", 8: "B", 9: "C"}
_PROVIDERS = ("openai_codex", "github_copilot", "google_code_assist")
# US dollars per 1 000 tokens: in, out.
_PRICES = {
    "openai_codex": (Fraction("0.002"), Fraction("0.004")),
    "github_copilot": (Fraction("0.001"), Fraction("0.003")),
    "google_code_assist": (Fraction("0.0015"), Fraction("0.0035")),
}
_BASELINE = "openai_codex"
_MS_PER_MINUTE = 60_000
_OVERAGE_CENTS_PER_MINUTE = 5


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A plan, in cents and milliseconds."""

    monthly_cents: int
    included_ms: int
    hard_limit_ms: int | None


_TERMS = {
    "A": Terms(monthly_cents=4_900, included_ms=1_000 * _MS_PER_MINUTE, hard_limit_ms=1_100 * _MS_PER_MINUTE),
    "B": Terms(monthly_cents=14_900, included_ms=10_000 * _MS_PER_MINUTE, hard_limit_ms=11_000 * _MS_PER_MINUTE),
    "C": Terms(monthly_cents=49_900, included_ms=0, hard_limit_ms=None),
}


@dataclass
class _Account:
    allowed: int = 0
    in_grace: int = 0
    denied: int = 0
    allowed_after_a_denial: int = 0
    used_ms: int = 0
    actual: Fraction = field(default_factory=Fraction)
    baseline: Fraction = field(default_factory=Fraction)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The numbers of one replay."""

    numbers: dict[str, Any]
    """As the replay prints them, an invoice as its total and the amounts of its lines."""
    in_grace: dict[str, int]
    """How many tasks were allowed only because of the grace band."""
    allowed_after_a_denial: dict[str, int]
    """How many smaller tasks still fitted."""


def recompute(trace: Path) -> Expected:
    """Walk through the trace, row by row."""
    accounts = {name: _Account() for name in _TERMS}
    count = 0
    with trace.open(newline="", encoding="ascii") as file:
        for number, row in enumerate(csv.DictReader(file)):
            name = _ROWS_OF_TEN[number % 10]
            tokens = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            _run(accounts[name], _TERMS[name], _PROVIDERS[number % 3], *tokens)
            count += 1
    used = {name: account.used_ms for name, account in accounts.items()}
    return Expected(
        numbers={
            "rows": count,
            "allowed": {name: account.allowed for name, account in accounts.items()},
            "denied": {name: account.denied for name, account in accounts.items()},
            "agent_ms": used,
            "ledger_agent_ms": used,
            "quota_used_ms": used,
            "invoices": {name: _invoice(_TERMS[name], account.used_ms) for name, account in accounts.items()},
            "cost": _cost(accounts),
        },
        in_grace={name: account.in_grace for name, account in accounts.items()},
        allowed_after_a_denial={name: account.allowed_after_a_denial for name, account in accounts.items()},
    )


def comparable(found: dict[str, Any]) -> dict[str, Any]:
    """The part of what a replay printed that can be recomputed."""
    numbers = {
        name: found[name]
        for name in ("rows", "allowed", "denied", "agent_ms", "ledger_agent_ms", "quota_used_ms", "cost")
    }
    invoices = {
        name: {
            "total": invoice["total"],
            "amounts": [line["amount"] for line in invoice["lines"]],
        }
        for name, invoice in found["invoices"].items()
    }
    return {**numbers, "invoices": invoices}


def _run(account: _Account, terms: Terms, provider: str, tokens_in: int, tokens_out: int) -> None:
    agent_ms = 10_000 + 100 * tokens_out
    after = account.used_ms + agent_ms
    if terms.hard_limit_ms is not None and after > terms.hard_limit_ms:
        account.denied += 1
        return
    account.allowed += 1
    account.in_grace += terms.hard_limit_ms is not None and after > terms.included_ms
    account.allowed_after_a_denial += account.denied > 0
    account.used_ms = after
    account.actual += _price(provider, tokens_in, tokens_out)
    account.baseline += _price(_BASELINE, tokens_in, tokens_out)


def _price(provider: str, tokens_in: int, tokens_out: int) -> Fraction:
    per_thousand_in, per_thousand_out = _PRICES[provider]
    return (tokens_in * per_thousand_in + tokens_out * per_thousand_out) / 1000


def _invoice(terms: Terms, used_ms: int) -> dict[str, Any]:
    beyond_ms = max(used_ms - terms.included_ms, 0)
    # Half away from zero; nothing here is negative.
    overage_cents = int(Fraction(beyond_ms * _OVERAGE_CENTS_PER_MINUTE, _MS_PER_MINUTE) + Fraction(1, 2))
    lines = [terms.monthly_cents, overage_cents]
    return {"total": _dollars(sum(lines)), "amounts": [_dollars(cents) for cents in lines]}


def _cost(accounts: dict[str, _Account]) -> dict[str, str]:
    actual = sum((account.actual for account in accounts.values()), Fraction())
    baseline = sum((account.baseline for account in accounts.values()), Fraction())
    savings = baseline - actual
    hundredths = int(savings / baseline * 10_000 + Fraction(1, 2)) if baseline else 0
    return {
        "actual": _exact(actual),
        "baseline": _exact(baseline),
        "savings": _exact(savings),
        "savings_percent": _dollars(hundredths),
    }


def _dollars(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


def _exact(amount: Fraction) -> str:
    # Prices have four decimals and are per thousand, so seven are enough.
    scaled = amount * 10**7
    assert scaled.denominator == 1
    whole, decimals = divmod(scaled.numerator, 10**7)
    return f"{whole}.{decimals:07}".rstrip("0").rstrip(".")
