"""What a replay found: one object for scripts, a page for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from cli.replaying.drive import Driven
from cli.replaying.settlement import Settled
from kit.money import format_decimal, round_half_away
from tollbook.billing.v1 import billing_pb2

# Three amounts of at most 18 + 12 digits add up exactly within it.
_EXACT_DIGITS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """All about one organization."""

    driven: Driven
    settled: Settled


def report(outcomes: Mapping[str, Outcome], *, rows: int, elapsed_seconds: float) -> dict[str, Any]:
    """The object that `--json` prints. Counts and milliseconds are integers, money is decimal strings."""
    checks = sorted(seconds for outcome in outcomes.values() for seconds in outcome.driven.check_seconds)
    return {
        "rows": rows,
        "allowed": {name: outcome.driven.allowed for name, outcome in outcomes.items()},
        "denied": {name: outcome.driven.denied for name, outcome in outcomes.items()},
        "agent_ms": {name: outcome.driven.agent_ms for name, outcome in outcomes.items()},
        "ledger_agent_ms": {name: outcome.settled.ledger_agent_ms for name, outcome in outcomes.items()},
        "quota_used_ms": {name: outcome.settled.quota_used_ms for name, outcome in outcomes.items()},
        "invoices": {name: _invoice(outcome.settled.invoice) for name, outcome in outcomes.items()},
        "cost": _cost(outcomes),
        "check_ms": {"p50": _percentile_ms(checks, 50), "p99": _percentile_ms(checks, 99)},
        "elapsed_seconds": round(elapsed_seconds, 3),
    }


def disagreements(found: Mapping[str, Any]) -> list[str]:
    """Where the ledger or the counters differ from what was sent; none in a sound suite."""
    return [
        f"organization {name}: {sent} ms were sent, the ledger has {found['ledger_agent_ms'][name]} ms "
        f"and quota counts {found['quota_used_ms'][name]} ms"
        for name, sent in found["agent_ms"].items()
        if not sent == found["ledger_agent_ms"][name] == found["quota_used_ms"][name]
    ]


def in_words(found: Mapping[str, Any]) -> str:
    """The same for a person at a terminal."""
    lines = [f"{found['rows']} rows replayed in {found['elapsed_seconds']:.1f} s."]
    for name, invoice in found["invoices"].items():
        lines.append(
            f"Organization {name}: {found['allowed'][name]} tasks allowed, {found['denied'][name]} denied; "
            f"{_minutes(found['ledger_agent_ms'][name])} agent-minutes in the ledger, "
            f"{_minutes(found['quota_used_ms'][name])} on the counter."
        )
        lines += [f"  {line['amount']:>12}  {line['description']}" for line in invoice["lines"]]
        lines.append(f"  {invoice['total']:>12}  invoice total")
    cost = found["cost"]
    lines += [
        f"Provider cost {cost['actual']} USD instead of {cost['baseline']} USD:",
        f"  {cost['savings']} USD saved ({cost['savings_percent']} %).",
        f"Checks took {found['check_ms']['p50']} ms (p50) and {found['check_ms']['p99']} ms (p99).",
    ]
    return "\n".join(lines)


def _invoice(invoice: billing_pb2.Invoice) -> dict[str, Any]:
    return {"total": invoice.total, "lines": [_invoice_line(line) for line in invoice.lines]}


def _invoice_line(line: billing_pb2.InvoiceLine) -> dict[str, Any]:
    kind = billing_pb2.InvoiceLineKind.Name(line.kind).removeprefix("INVOICE_LINE_KIND_").lower()
    shown: dict[str, Any] = {"kind": kind, "description": line.description, "amount": line.amount}
    if line.meter:
        shown |= {
            "meter": line.meter,
            "used_quantity": line.used_quantity,
            "included_quantity": line.included_quantity,
            "charged_quantity": line.charged_quantity,
            "unit_price": line.unit_price,
        }
    return shown


def _cost(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    costs = [outcome.settled.cost for outcome in outcomes.values()]
    with localcontext(prec=_EXACT_DIGITS):
        actual = sum((cost.actual for cost in costs), Decimal(0))
        baseline = sum((cost.baseline for cost in costs), Decimal(0))
        savings = sum((cost.savings for cost in costs), Decimal(0))
    return {
        "actual": format_decimal(actual),
        "baseline": format_decimal(baseline),
        "savings": format_decimal(savings),
        "savings_percent": _percent(savings, baseline),
    }


def _percent(part: Decimal, whole: Decimal) -> str:
    """Two decimals, half up; 0.00 of nothing."""
    hundredths = round_half_away(Fraction(part) / Fraction(whole) * 10_000) if whole else 0
    return str(Decimal(hundredths).scaleb(-2))


def _percentile_ms(ordered: list[float], percent: int) -> float:
    """The nearest rank: the smallest value that `percent` of all are not above."""
    rank = -(-len(ordered) * percent // 100)
    return round(ordered[max(rank, 1) - 1] * 1000, 3)


def _minutes(milliseconds: int) -> str:
    return f"{milliseconds // 60_000:,}.{milliseconds % 60_000 * 1000 // 60_000:03}"
