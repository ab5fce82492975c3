"""Raw events as Parquet files, one per week, in a folder.

`events_<Monday>.parquet` holds every row as it was stored, `events_<Monday>.parquet.sha256` its digest in the form that
`sha256sum --check` reads. Numbers and times are columns of their own; measurements, provider call and labels are the
JSON that the ledger kept.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import date
from hashlib import file_digest
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from kit.private_files import make_private_folder, write_private_file
from services.metering.application.ports import ArchivedFile, RawRow

_T = TypeVar("_T")
_GROUP_ROWS = 20_000
_TIME = pa.timestamp("us", tz="UTC")
_REQUIRED_TEXTS = ("project_id", "team_id", "user_id", "agent_id", "task_id", "session_id")
_SCHEMA = pa.schema(
    [
        pa.field("organization_id", pa.string(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("commit_id", pa.string(), nullable=False),
        pa.field("receive_time", _TIME, nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("event_time", _TIME, nullable=False),
        pa.field("event_time_nanos", pa.int16(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in _REQUIRED_TEXTS),
        pa.field("measurements", pa.string(), nullable=False),
        pa.field("provider_call", pa.string()),
        pa.field("reservation_id", pa.string(), nullable=False),
        pa.field("reservation_final", pa.bool_(), nullable=False),
        pa.field("task_outcome", pa.int16(), nullable=False),
        pa.field("labels", pa.string()),
        pa.field("reversal_of_source", pa.string()),
        pa.field("reversal_of_id", pa.string()),
    ]
)


class ParquetArchive:
    """Archive in a folder that only its owner may enter. The work is done in threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def write(self, week: date, rows: AsyncIterator[Sequence[RawRow]]) -> ArchivedFile:
        """As Archive: into a file of another name, which takes its place when it is whole."""
        name = f"events_{week:%Y%m%d}.parquet"
        partial = await asyncio.to_thread(self._begin, name)
        try:
            written = await _write_groups(partial, rows)
            file = await asyncio.to_thread(_read_back, partial, name)
            if file.row_count != written:
                raise OSError(f"{partial}: {file.row_count} rows were read back of {written}")
            await asyncio.to_thread(self._publish, partial, file)
        finally:
            partial.unlink(missing_ok=True)
        return file

    async def holds(self, file: ArchivedFile) -> bool:
        """As Archive."""
        try:
            return await asyncio.to_thread(_digest, self._folder / file.name) == file.sha256
        except FileNotFoundError:
            return False

    def _begin(self, name: str) -> Path:
        make_private_folder(self._folder)
        for left in self._folder.glob(f".{name}.*.partial"):
            left.unlink(missing_ok=True)  # by a process that was killed
        return self._folder / f".{name}.{secrets.token_hex(8)}.partial"

    def _publish(self, partial: Path, file: ArchivedFile) -> None:
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(self._folder / file.name)
        # It syncs the folder too, and with it the new name of the file.
        write_private_file(self._folder / f"{file.name}.sha256", f"{file.sha256.hex()}  {file.name}\n")


async def _write_groups(path: Path, rows: AsyncIterator[Sequence[RawRow]]) -> int:
    """The number of rows written, in groups of a bounded size."""
    count = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with (
        os.fdopen(descriptor, "wb") as file,
        pq.ParquetWriter(file, _SCHEMA, compression="zstd", write_page_checksum=True) as writer,
    ):
        group: list[pa.RecordBatch] = []
        async for page in rows:
            group.append(await asyncio.to_thread(_batch, page))
            if sum(batch.num_rows for batch in group) >= _GROUP_ROWS:
                count += await _to_its_end(lambda: _write_group(writer, group))
                group.clear()
        count += await _to_its_end(lambda: _write_group(writer, group))
    return count


async def _to_its_end(work: Callable[[], _T]) -> _T:
    """The work, done in a thread, also when whoever waits is cancelled meanwhile: what it works on is then not closed
    under it.
    """
    thread = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait({thread})
        raise


def _batch(page: Sequence[RawRow]) -> pa.RecordBatch:
    columns = [pa.array([row[field.name] for row in page], field.type) for field in _SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _write_group(writer: pq.ParquetWriter, group: Sequence[pa.RecordBatch]) -> int:
    table = pa.Table.from_batches(group, schema=_SCHEMA)
    writer.write_table(table)
    return int(table.num_rows)


def _read_back(path: Path, name: str) -> ArchivedFile:
    """Decodes every row again, checking every page."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
            count = sum(batch.num_rows for batch in parquet.iter_batches(batch_size=_GROUP_ROWS))
    except (pa.ArrowException, OSError) as error:
        raise OSError(f"{path} does not read back: {error}") from error
    return ArchivedFile(name, _digest(path), count, path.stat().st_size)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()
