"""The archive when it is interrupted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.metering.adapters import parquet_archive
from services.metering.adapters.parquet_archive import ParquetArchive
from services.metering.application.ports import RawRow

WEEK = date(2026, 1, 5)
NOW = datetime(2026, 1, 6, tzinfo=UTC)
TEXTS = ("organization_id", "commit_id", "source", "id", "project_id", "team_id", "user_id", "agent_id", "task_id")


async def rows() -> AsyncIterator[Sequence[RawRow]]:
    row: dict[str, object] = dict.fromkeys(TEXTS, "x")
    row |= {"session_id": "", "reservation_id": "", "measurements": "{}", "reservation_final": False}
    row |= {"sequence": 1, "event_time_nanos": 0, "task_outcome": 0, "receive_time": NOW, "event_time": NOW}
    row |= dict.fromkeys(("provider_call", "labels", "reversal_of_source", "reversal_of_id"))
    yield [row]


async def test_a_write_that_is_cancelled_closes_no_file_under_the_thread_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end, ended, was_open = asyncio.Event(), threading.Event(), asyncio.Event(), list[bool]()
    loop, write_group = asyncio.get_running_loop(), parquet_archive._write_group

    def held(writer: pq.ParquetWriter, group: Sequence[pa.RecordBatch]) -> int:
        loop.call_soon_threadsafe(begun.set)
        may_end.wait()
        was_open.append(writer.is_open)
        loop.call_soon_threadsafe(ended.set)
        return write_group(writer, group)

    monkeypatch.setattr(parquet_archive, "_write_group", held)
    writing = asyncio.create_task(ParquetArchive(tmp_path / "archive").write(WEEK, rows()))
    await begun.wait()
    writing.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await ended.wait()
    assert was_open == [True]
    assert list((tmp_path / "archive").iterdir()) == []
