"""Waiting usage on disk, so that a crash loses none of it.

A segment is a file of frames (kind, length, CRC-32, message), written by one process, which holds a lock on it for as
long as it lives. A file whose lock can be had was left by a process that ended: whoever gets the lock sends it, with
the ids it was recorded under, so that what had been sent before counts nothing. A file goes when all of it was sent.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from tollbook.metering.v1 import metering_pb2, task_time_pb2
from tollbook_sdk.buffer import Usage, Waiting

_HEADER = struct.Struct(">cII")
_KINDS: dict[bytes, type[Usage]] = {b"E": metering_pb2.UsageEvent, b"T": task_time_pb2.ReportTaskTimeRequest}
_SUFFIX = ".spool"
# A segment is read into memory as a whole by whoever finds it.
_FRAMES_MAX = 1000
_BYTES_MAX = 4 * 1024 * 1024


class Segment:
    """One file and how much of it is still to be sent."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self.file = file
        self.frames = 0
        self.bytes = 0
        self.open = 0

    @property
    def is_full(self) -> bool:
        """Whether the next frames go into another file."""
        return self.frames >= _FRAMES_MAX or self.bytes >= _BYTES_MAX

    def remove(self) -> None:
        """Removes the file and lets go of the lock, in this order: nobody else may find it in between."""
        self.path.unlink(missing_ok=True)
        self.file.close()


class Spool:
    """The files of one process, and those of ended ones that it takes over. Used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._current: Segment | None = None
        self._mine: set[Segment] = set()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def keep(self, items: Sequence[Waiting]) -> None:
        """Returns when all of them that still wait are on disk, synced. Raises OSError; then none of them is kept."""
        new = [item for item in items if item.segment is None and not item.is_settled]
        if not new:
            return
        segment = self._writable()
        frames = b"".join(_frame(item.usage) for item in new)
        try:
            segment.file.write(frames)
            segment.file.flush()
            os.fsync(segment.file.fileno())
        except OSError:
            # A frame cut short hides those after it: nothing more goes into this file.
            self._current = None
            if not segment.open:
                self._remove(segment)
            raise
        segment.frames += len(new)
        segment.bytes += len(frames)
        segment.open += len(new)
        for item in new:
            item.segment = segment

    def drop(self, items: Sequence[Waiting]) -> None:
        """They were sent: files without anything else to send go."""
        for item in items:
            segment, item.segment = item.segment, None
            if segment is None:
                continue
            segment.open -= 1
            if not segment.open:
                self._remove(segment)

    def find(self) -> list[Waiting]:
        """The contents of one file that an ended process left; empty: there is none (or it held nothing whole)."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            segment = _locked(path)
            if segment is None:
                continue
            found = [Waiting(usage, segment=segment) for usage in _read(segment.file)]
            segment.frames, segment.open = _FRAMES_MAX, len(found)
            if found:
                self._mine.add(segment)
                return found
            segment.remove()
        return []

    def close(self) -> None:
        """Lets go of what is left on disk for the next process."""
        for segment in self._mine:
            segment.file.close()
        self._mine.clear()
        self._current = None

    def _remove(self, segment: Segment) -> None:
        if segment is self._current:
            self._current = None
        self._mine.discard(segment)
        segment.remove()

    def _writable(self) -> Segment:
        if self._current is None or self._current.is_full:
            # By age, since what is found is sent in the order of the names.
            path = self._folder / f"{time.time_ns():020d}-{uuid.uuid4().hex}{_SUFFIX}"
            # Locked under a name that `find` does not see, since a file without a lock is anybody's.
            hidden = path.with_suffix(".new")
            file = os.fdopen(os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
            fcntl.flock(file, fcntl.LOCK_EX)
            hidden.rename(path)
            _sync_folder(self._folder)
            self._current = Segment(path, file)
            self._mine.add(self._current)
        return self._current


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(path: Path) -> Segment | None:
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if os.fstat(file.fileno()).st_nlink == 0:  # removed by the one who had the lock
        file.close()
        return None
    return Segment(path, file)


def _frame(usage: Usage) -> bytes:
    kind = b"E" if isinstance(usage, metering_pb2.UsageEvent) else b"T"
    content = usage.SerializeToString()
    return _HEADER.pack(kind, len(content), zlib.crc32(content)) + content


def _read(file: IO[bytes]) -> Iterator[Usage]:
    """The frames up to the first that is not whole: a crash cuts the last write short."""
    content = file.read()
    place = 0
    while place + _HEADER.size <= len(content):
        kind, length, checksum = _HEADER.unpack_from(content, place)
        place += _HEADER.size
        body = content[place : place + length]
        place += length
        if kind not in _KINDS or len(body) < length or zlib.crc32(body) != checksum:
            return
        yield _KINDS[kind].FromString(body)
