"""Traces of LLM calls: `TIMESTAMP,ContextTokens,GeneratedTokens`, read exactly and refused by line number.

The format is that of the Azure LLM inference traces. Timestamps have seven decimals (100 ns), more than a
float or a datetime can hold, so they are read as integers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
TICK_NANOSECONDS = 100
TICKS_PER_SECOND = 10_000_000
# The replayed period began a day ago, and no event may lie ahead of the clock.
_LENGTH_TICKS_MAX = 86_400 * TICKS_PER_SECOND
# The ledger's largest quantity is 2^53 - 1; an agent time of 10 000 ms + 100 ms per token must stay below it.
_TOKENS_MAX = 10**12
_ROWS_MAX = 1_000_000
_LINE_BYTES_MAX = 200

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{7})", re.ASCII)
_COUNT = re.compile(r"\d{1,13}", re.ASCII)
_COLUMNS = 3


class TraceRefused(ValueError):
    """The trace cannot be replayed; the message names file, line (the header is line 1) and what is wrong."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One LLM call of a trace."""

    offset_ticks: int
    """How long after row 0 it began, in units of 100 ns."""
    context_tokens: int
    generated_tokens: int


def read_trace(path: Path) -> list[TraceRow]:
    """All rows, in the order of the file. Raises TraceRefused; one bad line refuses the whole trace.

    Rows may be out of order, but none lies before row 0 or more than a day after it.
    """
    try:
        with path.open("rb") as file:
            lines = enumerate(file, start=1)
            _refuse_other_header(path, next(lines, (1, b""))[1])
            rows: list[TraceRow] = []
            first_tick = 0
            for number, line in lines:
                try:
                    tick, context_tokens, generated_tokens = _parse(line)
                    first_tick = tick if not rows else first_tick
                    rows.append(TraceRow(_offset(tick, first_tick), context_tokens, generated_tokens))
                except _Malformed as malformed:
                    raise _refused(path, number, str(malformed)) from None
                if len(rows) > _ROWS_MAX:
                    raise _refused(path, number, f"more than {_ROWS_MAX} rows")
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise TraceRefused(msg) from None
    if not rows:
        raise _refused(path, 2, "there is no row after the header")
    return rows


class _Malformed(Exception):
    """What is wrong with a line."""


def _refused(path: Path, number: int, problem: str) -> TraceRefused:
    return TraceRefused(f"{path}: line {number}: {problem}")


def _refuse_other_header(path: Path, line: bytes) -> None:
    if line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n") != HEADER.encode():
        raise _refused(path, 1, f"the header must be {HEADER}")


def _parse(line: bytes) -> tuple[int, int, int]:
    if len(line) > _LINE_BYTES_MAX:
        msg = f"longer than {_LINE_BYTES_MAX} bytes"
        raise _Malformed(msg)
    try:
        columns = line.removesuffix(b"\n").removesuffix(b"\r").decode("ascii").split(",")
    except UnicodeDecodeError:
        raise _Malformed("not ASCII text") from None
    if len(columns) != _COLUMNS:
        msg = f"{len(columns)} column{'s' * (len(columns) > 1)} instead of {_COLUMNS} ({HEADER})"
        raise _Malformed(msg)
    return _tick(columns[0]), _count("ContextTokens", columns[1]), _count("GeneratedTokens", columns[2])


def _tick(text: str) -> int:
    """The timestamp in units of 100 ns since 1970."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        msg = f"TIMESTAMP {text!r} is not like 2023-11-16 18:17:03.9799600 (seven decimals)"
        raise _Malformed(msg)
    year, month, day, hour, minute, second, fraction = map(int, match.groups())
    try:
        whole = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        msg = f"TIMESTAMP {text!r}: {error}"
        raise _Malformed(msg) from None
    return (whole - _EPOCH) // timedelta(seconds=1) * TICKS_PER_SECOND + fraction


def _count(name: str, text: str) -> int:
    if text.startswith("-"):
        msg = f"{name} {text!r} is negative"
        raise _Malformed(msg)
    if not _COUNT.fullmatch(text) or int(text) > _TOKENS_MAX:
        msg = f"{name} {text!r} is not a whole number from 0 to {_TOKENS_MAX}"
        raise _Malformed(msg)
    return int(text)


def _offset(tick: int, first_tick: int) -> int:
    offset = tick - first_tick
    if offset < 0:
        raise _Malformed("TIMESTAMP lies before that of the first row")
    if offset > _LENGTH_TICKS_MAX:
        raise _Malformed("TIMESTAMP lies more than a day after that of the first row; replay a shorter trace")
    return offset
