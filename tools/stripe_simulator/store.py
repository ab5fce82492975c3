"""The state: one SQLite file that holds every object, every idempotent answer and every webhook on its way.

One connection, used by the event loop's thread alone. An API call is one transaction: its objects, its events,
their deliveries and the answer kept for its idempotency key are there together or not at all.
"""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from kit.private_files import make_private_folder

StripeObject: TypeAlias = dict[str, Any]

_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE objects (
    position INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of creation, which lists follow
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    owner TEXT,                                  -- what lists are narrowed by: a customer, a product, an invoice
    name TEXT,                                   -- what _NAMES says, such as an invoice's number
    deleted INTEGER NOT NULL DEFAULT 0,
    body TEXT NOT NULL
);
CREATE INDEX objects_by_kind ON objects (kind, position);
CREATE INDEX objects_by_owner ON objects (owner, kind, position);
CREATE UNIQUE INDEX objects_by_name ON objects (kind, name);
CREATE TABLE idempotent_answers (
    key TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    digest TEXT NOT NULL,
    status INTEGER NOT NULL,
    body BLOB NOT NULL,
    request_id TEXT NOT NULL,
    saved_at REAL NOT NULL
);
CREATE INDEX idempotent_answers_by_age ON idempotent_answers (saved_at);
CREATE TABLE deliveries (
    event_id TEXT PRIMARY KEY,
    state TEXT NOT NULL,                         -- pending, delivered or abandoned
    attempt_count INTEGER NOT NULL,
    due_at REAL NOT NULL,
    outcome TEXT NOT NULL                        -- what the last attempt met
);
CREATE INDEX deliveries_due ON deliveries (state, due_at);
CREATE TABLE agenda (
    object_id TEXT NOT NULL,
    task TEXT NOT NULL,
    due_at INTEGER NOT NULL,
    test_clock TEXT NOT NULL,                    -- whose time due_at is in, empty for everybody
    PRIMARY KEY (object_id, task)
);
CREATE INDEX agenda_due ON agenda (test_clock, due_at);
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
"""

_NEWEST_FIRST = """
SELECT body FROM objects WHERE kind = :kind AND position < :bound AND deleted = 0 ORDER BY position DESC
"""
_NEWEST_FIRST_OF_OWNER = """
SELECT body FROM objects WHERE owner = :owner AND kind = :kind AND position < :bound AND deleted = 0
ORDER BY position DESC
"""
_OLDEST_FIRST = """
SELECT body FROM objects WHERE kind = :kind AND position > :bound AND deleted = 0 ORDER BY position
"""
_OLDEST_FIRST_OF_OWNER = """
SELECT body FROM objects WHERE owner = :owner AND kind = :kind AND position > :bound AND deleted = 0
ORDER BY position
"""

_POSITION_MAX = 2**63 - 1

# What no two objects of a kind share, besides the id.
_NAMES: dict[str, Callable[[StripeObject], str | None]] = {
    "billing.meter": lambda body: body["event_name"] if body["status"] == "active" else None,
    "billing.meter_event": lambda body: body["identifier"],
    "invoice": lambda body: body["number"],
    "invoice_payment": lambda body: body["payment"]["payment_intent"],
    "price": lambda body: body["lookup_key"],
}


class StateUnusable(Exception):
    """The state file cannot be used: another simulator has it open, or another version wrote it."""


@dataclass(frozen=True, kw_only=True)
class SavedAnswer:
    """What a call under an idempotency key was, and was answered."""

    endpoint: str
    digest: str
    status: int
    body: bytes
    request_id: str


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How far an event's way to the webhook receiver got."""

    event_id: str
    state: str
    attempt_count: int
    due_at: float
    outcome: str


@dataclass(frozen=True, kw_only=True)
class Due:
    """Something that happens to an object at a time, in seconds since 1970, of a test clock (empty: of everybody)."""

    object_id: str
    task: str
    due_at: int
    test_clock: str


class Store:
    """Opens the file, making it when missing; raises StateUnusable when it is somebody else's."""

    def __init__(self, folder: Path) -> None:
        make_private_folder(folder)
        path = folder / "state.sqlite3"
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=1)
        path.chmod(0o600)
        try:
            self._open()
        except sqlite3.Error as error:
            self._connection.close()
            raise StateUnusable(f"{path}: {error}; is another simulator using it?") from error

    def _open(self) -> None:
        # Exclusive: a second simulator on the same file would deliver every webhook twice. WAL with NORMAL
        # survives any death of this process; only a power cut may lose the last calls, never half of one.
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            self._connection.execute(f"PRAGMA {pragma}")
        with self.transaction():
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif version != _SCHEMA_VERSION:
                message = f"written by schema {version}, this is {_SCHEMA_VERSION}: remove the folder to begin anew"
                raise sqlite3.DatabaseError(message)

    def close(self) -> None:
        """Closes the file; everything committed is in it."""
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commits when the block ends, rolls back when it raises."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def begin_work(self) -> None:
        """Marks, inside a transaction, the point that undo_work() goes back to."""
        self._connection.execute("SAVEPOINT work")

    def undo_work(self) -> None:
        """Takes back what the transaction did since begin_work()."""
        self._connection.execute("ROLLBACK TO work")

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Takes back, inside a transaction, what the block did when it raises."""
        self._connection.execute("SAVEPOINT step")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK TO step")
            raise
        finally:
            self._connection.execute("RELEASE step")

    # ---- objects

    def insert(self, body: StripeObject, *, owner: str | None) -> None:
        """Stores a new object under its `id`, of the kind that its `object` names."""
        self._connection.execute(
            "INSERT INTO objects (id, kind, owner, name, body) VALUES (?, ?, ?, ?, ?)",
            (body["id"], body["object"], owner, _name(body), json.dumps(body)),
        )

    def replace(self, body: StripeObject) -> None:
        """Stores the object's new state; its place in lists stays."""
        self._connection.execute(
            "UPDATE objects SET name = ?, body = ? WHERE id = ?", (_name(body), json.dumps(body), body["id"])
        )

    def set_owner(self, identifier: str, owner: str | None) -> None:
        """Puts the object into another owner's lists."""
        self._connection.execute("UPDATE objects SET owner = ? WHERE id = ?", (owner, identifier))

    def leave_stub(self, stub: StripeObject) -> None:
        """Takes the object out of all lists; what is left of it is the stub."""
        self._connection.execute(
            "UPDATE objects SET body = ?, deleted = 1 WHERE id = ?", (json.dumps(stub), stub["id"])
        )

    def remove(self, identifier: str) -> None:
        """Forgets the object."""
        self._connection.execute("DELETE FROM objects WHERE id = ?", (identifier,))

    def get(self, identifier: str) -> StripeObject | None:
        """The object, or its stub; None where there is neither."""
        row = self._connection.execute("SELECT body FROM objects WHERE id = ?", (identifier,)).fetchone()
        return None if row is None else _parsed(row[0])

    def position(self, identifier: str) -> int | None:
        """The object's place in the order of creation."""
        row = self._connection.execute("SELECT position FROM objects WHERE id = ?", (identifier,)).fetchone()
        return None if row is None else int(row[0])

    def named(self, kind: str, name: str) -> StripeObject | None:
        """The object of that kind that has this name, such as an invoice with a number."""
        row = self._connection.execute("SELECT body FROM objects WHERE kind = ? AND name = ?", (kind, name)).fetchone()
        return None if row is None else _parsed(row[0])

    def newest_first(self, kind: str, *, owner: str | None = None, before: int | None = None) -> Iterator[StripeObject]:
        """The objects of a kind (of one owner), from a position on backwards, without deleted ones."""
        statement = _NEWEST_FIRST if owner is None else _NEWEST_FIRST_OF_OWNER
        bound = _POSITION_MAX if before is None else before
        rows = self._connection.execute(statement, {"kind": kind, "owner": owner, "bound": bound})
        return (_parsed(body) for (body,) in rows)

    def oldest_first(self, kind: str, *, owner: str | None = None, after: int = 0) -> Iterator[StripeObject]:
        """The objects of a kind (of one owner), from a position on forwards, without deleted ones."""
        statement = _OLDEST_FIRST if owner is None else _OLDEST_FIRST_OF_OWNER
        rows = self._connection.execute(statement, {"kind": kind, "owner": owner, "bound": after})
        return (_parsed(body) for (body,) in rows)

    def has_any(self, kind: str) -> bool:
        """Whether there is a live object of this kind."""
        row = self._connection.execute(
            "SELECT 1 FROM objects WHERE kind = ? AND deleted = 0 LIMIT 1", (kind,)
        ).fetchone()
        return row is not None

    # ---- what falls due

    def plan(self, due: Due) -> None:
        """Puts it on the agenda; of one task for one object the latest plan counts."""
        self._connection.execute(
            "INSERT OR REPLACE INTO agenda (object_id, task, due_at, test_clock) VALUES (?, ?, ?, ?)",
            (due.object_id, due.task, due.due_at, due.test_clock),
        )

    def unplan(self, object_id: str, *tasks: str) -> None:
        """Takes these tasks, or with none named all, off the object's agenda."""
        if not tasks:
            self._connection.execute("DELETE FROM agenda WHERE object_id = ?", (object_id,))
        for task in tasks:
            self._connection.execute("DELETE FROM agenda WHERE object_id = ? AND task = ?", (object_id, task))

    def next_due(self, *, test_clock: str) -> Due | None:
        """What falls due next in that clock's time; of two at once the one planned first."""
        row = self._connection.execute(
            "SELECT object_id, task, due_at, test_clock FROM agenda WHERE test_clock = ?"
            " ORDER BY due_at, rowid LIMIT 1",
            (test_clock,),
        ).fetchone()
        if row is None:
            return None
        object_id, task, due_at, clock = row
        return Due(object_id=object_id, task=task, due_at=due_at, test_clock=clock)

    # ---- settings

    def setting(self, name: str) -> str | None:
        """What was set under the name."""
        row = self._connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_setting(self, name: str, value: str) -> None:
        """Sets it, until it is set anew."""
        self._connection.execute("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", (name, value))

    # ---- idempotent answers

    def saved_answer(self, key: str) -> SavedAnswer | None:
        """The answer kept under an idempotency key."""
        row = self._connection.execute(
            "SELECT endpoint, digest, status, body, request_id FROM idempotent_answers WHERE key = ?", (key,)
        ).fetchone()
        if row is None:
            return None
        endpoint, digest, status, body, request_id = row
        return SavedAnswer(endpoint=endpoint, digest=digest, status=status, body=body, request_id=request_id)

    def save_answer(self, key: str, answer: SavedAnswer, *, saved_at: float) -> None:
        """Keeps the answer under an idempotency key that has none."""
        self._connection.execute(
            "INSERT INTO idempotent_answers (key, endpoint, digest, status, body, request_id, saved_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                key,
                answer.endpoint,
                answer.digest,
                answer.status,
                answer.body,
                answer.request_id,
                saved_at,
            ),
        )

    def forget_answers(self, *, saved_before: float) -> None:
        """Drops the answers kept until then."""
        self._connection.execute("DELETE FROM idempotent_answers WHERE saved_at <= ?", (saved_before,))

    # ---- deliveries

    def add_delivery(self, event_id: str, *, due_at: float) -> None:
        """Puts an event on its way to the receiver, also one that was on it before."""
        self._connection.execute(
            "INSERT OR REPLACE INTO deliveries (event_id, state, attempt_count, due_at, outcome)"
            " VALUES (?, 'pending', 0, ?, '')",
            (event_id, due_at),
        )

    def save_delivery(self, delivery: Delivery) -> None:
        """Stores how far the delivery got."""
        self._connection.execute(
            "UPDATE deliveries SET state = ?, attempt_count = ?, due_at = ?, outcome = ? WHERE event_id = ?",
            (delivery.state, delivery.attempt_count, delivery.due_at, delivery.outcome, delivery.event_id),
        )

    def delivery(self, event_id: str) -> Delivery | None:
        """The event's delivery; None when nobody receives."""
        row = self._connection.execute(
            "SELECT event_id, state, attempt_count, due_at, outcome FROM deliveries WHERE event_id = ?",
            (event_id,),
        ).fetchone()
        return None if row is None else _delivery(row)

    def pending_deliveries(self, *, count_max: int) -> list[Delivery]:
        """The deliveries still to be made, the most urgent first."""
        rows = self._connection.execute(
            "SELECT event_id, state, attempt_count, due_at, outcome FROM deliveries"
            " WHERE state = 'pending' ORDER BY due_at, rowid LIMIT ?",
            (count_max,),
        )
        return [_delivery(row) for row in rows]


def _name(body: StripeObject) -> str | None:
    name_of = _NAMES.get(body["object"])
    return None if name_of is None else name_of(body)


def _parsed(body: str) -> StripeObject:
    parsed: StripeObject = json.loads(body)
    return parsed


def _delivery(row: tuple[Any, ...]) -> Delivery:
    event_id, state, attempt_count, due_at, outcome = row
    return Delivery(event_id=event_id, state=state, attempt_count=attempt_count, due_at=due_at, outcome=outcome)
