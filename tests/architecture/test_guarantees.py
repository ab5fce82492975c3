"""docs/guarantees.md says which test keeps each promise; here it is held to that."""

from __future__ import annotations

import ast
import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
GUARANTEES = (CHECKOUT / "docs" / "guarantees.md").read_text(encoding="utf-8")
_TEST = re.compile(r"`(tests/[^`]*?\.py)::(test_[^`]*)`")
_LINE = re.compile(r"^\| ([BF]\d+) \|.*$", re.MULTILINE)
# Without F21 to F24, which are of the analytics.
_PROMISED = [
    *(f"B{number}" for number in range(1, 44)),
    *(f"F{number}" for number in (*range(1, 21), *range(25, 33))),
]


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_the_guarantees_name_exists() -> None:
    named = _TEST.findall(GUARANTEES)
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (CHECKOUT / path).is_file() or name not in names_in(CHECKOUT / path)
    ]
    assert missing == []


def test_every_bug_and_fault_of_ingest_quota_and_billing_has_a_test() -> None:
    lines = {match.group(1): match.group(0) for match in _LINE.finditer(GUARANTEES)}
    assert sorted(set(_PROMISED) - set(lines)) == []
    assert [name for name, line in lines.items() if not _TEST.search(line)] == []
