from __future__ import annotations

from pathlib import Path

import pytest

from cli.replaying.workload import tasks_of
from cli.trace import HEADER, TICKS_PER_SECOND, TraceRefused, TraceRow, read_trace
from tools.make_sample_trace import SAMPLE, sample_trace

_FIRST = "2023-11-16 18:17:03.9799600,4808,10"


def _trace(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "trace.csv"
    path.write_bytes("\n".join([header, *lines]).encode())
    return path


def test_timestamps_keep_all_seven_decimals(tmp_path: Path) -> None:
    rows = read_trace(_trace(tmp_path, _FIRST, "2023-11-16 18:17:04.0319601,3180,8"))
    assert rows == [TraceRow(0, 4808, 10), TraceRow(520_001, 3180, 8)]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"], ids=["none", "lf", "crlf"])
def test_last_line_may_end_in_any_way(tmp_path: Path, ending: str) -> None:
    assert len(read_trace(_trace(tmp_path, _FIRST + ending))) == 1


def test_rows_may_be_out_of_order_behind_the_first(tmp_path: Path) -> None:
    rows = read_trace(_trace(tmp_path, _FIRST, "2023-11-16 18:17:09.0000000,1,1", "2023-11-16 18:17:04.9799600,2,2"))
    assert rows[2].offset_ticks == TICKS_PER_SECOND < rows[1].offset_ticks


def test_trace_of_exactly_a_day_is_read(tmp_path: Path) -> None:
    rows = read_trace(_trace(tmp_path, _FIRST, "2023-11-17 18:17:03.9799600,1,1"))
    assert rows[1].offset_ticks == 86_400 * TICKS_PER_SECOND


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("2023-11-16 18:17:04.0319600,3180", "2 columns instead of 3"),
        ("2023-11-16 18:17:04.0319600,3180,8,1", "4 columns instead of 3"),
        ("", "1 column instead of 3"),
        ("2023-11-16 18:17:04.031960,1,1", "seven decimals"),
        ("2023-11-16 18:17:04.03196000,1,1", "seven decimals"),
        ("2023-11-16T18:17:04.0319600,1,1", "TIMESTAMP"),
        ("2023-11-31 18:17:04.0319600,1,1", "day is out of range"),
        ("2023-11-16 24:17:04.0319600,1,1", "hour must be in"),
        ("2023-11-16 18:17:04.0319600,1.5,1", "ContextTokens '1.5' is not a whole number"),
        ("2023-11-16 18:17:04.0319600,1,x", "GeneratedTokens 'x' is not a whole number"),
        ("2023-11-16 18:17:04.0319600,1,", "GeneratedTokens '' is not a whole number"),
        ("2023-11-16 18:17:04.0319600,1,-8", "GeneratedTokens '-8' is negative"),
        ("2023-11-16 18:17:04.0319600,1,9999999999999", "GeneratedTokens '9999999999999' is not a whole number"),
        ("2023-11-16 18:17:04.0319600,1,٣", "not ASCII"),
        ("2023-11-16 18:17:03.9799599,1,1", "lies before that of the first row"),
        ("2023-11-17 18:17:03.9799601,1,1", "more than a day after"),
    ],
    ids=[
        "too-few-columns",
        "too-many-columns",
        "blank",
        "six-decimals",
        "eight-decimals",
        "t-separator",
        "no-such-day",
        "no-such-hour",
        "fraction",
        "letter",
        "empty-count",
        "negative",
        "too-large",
        "digits-of-another-script",
        "before-row-0",
        "longer-than-a-day",
    ],
)
def test_malformed_line_is_named_by_its_number(tmp_path: Path, line: str, problem: str) -> None:
    path = _trace(tmp_path, _FIRST, _FIRST, line, _FIRST)
    with pytest.raises(TraceRefused, match=r"trace\.csv: line 4: ") as refusal:
        read_trace(path)
    assert problem in str(refusal.value)


def test_malformed_first_row_is_line_2(tmp_path: Path) -> None:
    with pytest.raises(TraceRefused, match="line 2:"):
        read_trace(_trace(tmp_path, "yesterday,1,1"))


def test_other_header_is_line_1(tmp_path: Path) -> None:
    with pytest.raises(TraceRefused, match=f"line 1: the header must be {HEADER}"):
        read_trace(_trace(tmp_path, _FIRST, header="TIMESTAMP,ContextTokens"))


def test_trace_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceRefused, match="line 2: there is no row"):
        read_trace(_trace(tmp_path))


def test_missing_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceRefused, match=r"nowhere\.csv: No such file"):
        read_trace(tmp_path / "nowhere.csv")


def test_of_ten_rows_seven_are_a_two_b_and_one_c() -> None:
    tasks = tasks_of([TraceRow(0, 1, 1)] * 20)
    assert "".join(task.organization for task in tasks) == "AAAAAAABBC" * 2


def test_providers_take_turns_by_row() -> None:
    tasks = tasks_of([TraceRow(0, 1, 1)] * 4)
    assert [task.provider for task in tasks] == [
        "openai_codex",
        "github_copilot",
        "google_code_assist",
        "openai_codex",
    ]


def test_agent_time_is_ten_seconds_and_a_tenth_per_generated_token() -> None:
    task = tasks_of([TraceRow(7, 4808, 10)])[0]
    assert (task.agent_ms, task.tokens_input, task.tokens_output, task.offset_nanoseconds) == (11_000, 4808, 10, 700)


def test_sample_trace_is_what_its_generator_makes() -> None:
    assert SAMPLE.read_text(encoding="ascii") == sample_trace()
    assert len(read_trace(SAMPLE)) == 600
