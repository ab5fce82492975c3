"""What this process has given away while the store was away, until the store is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from kit.recent import Recent
from services.quota.application.last_seen import LimitKey, limit_key
from services.quota.application.ports import Answer, Grant
from services.quota.domain.decisions import LimitState
from services.quota.domain.loads import Load
from services.quota.domain.maxima import GRANTS_MAX, SEEN_COUNTERS_MAX
from services.quota.domain.terms import Terms


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant, and what was answered."""

    grant: Grant
    answer: Answer
    expire_us: int


@dataclass(slots=True)
class _Book:
    granted: dict[str, Granted] = field(default_factory=dict)
    given: dict[LimitKey, int] = field(default_factory=dict)
    changes_count: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """What is to be registered of an organization, and as of which change of the book."""

    granted: Sequence[Granted]
    changes_count: int


class Grants:
    """A book for each organization that was given something. Memory is bounded; when it is full nothing more is given
    that is limited.
    """

    def __init__(self) -> None:
        self._books: dict[str, _Book] = {}
        self._granted_count = 0
        # Windows move by time alone: what was given of them lapses, whether or not the store is told.
        self._windows = Recent[LimitKey, tuple[int, int]](SEEN_COUNTERS_MAX)

    @property
    def organizations(self) -> Sequence[str]:
        """Those whose store was not told."""
        return tuple(self._books)

    def __contains__(self, organization_id: str) -> bool:
        return organization_id in self._books

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be remembered."""
        return self._granted_count >= GRANTS_MAX or len(self._books) >= GRANTS_MAX

    def find(self, organization_id: str, request_id: str, *, now_us: int) -> Granted | None:
        """A grant whose time is not over."""
        book = self._books.get(organization_id)
        granted = book.granted.get(request_id) if book else None
        return granted if granted is not None and now_us < granted.expire_us else None

    def given(self, organization_id: str, state: LimitKey, *, window_us: int | None, now_us: int) -> int:
        """What was given of a limit: since the store was told all, or of a window, within the last of its lengths."""
        if window_us is None:
            book = self._books.get(organization_id)
            return book.given.get(state, 0) if book else 0
        quantity, last_us = self._windows.get(state) or (0, 0)
        return quantity if now_us - last_us < window_us else 0

    def give(
        self,
        organization_id: str,
        states: Sequence[LimitState],
        quantities: Mapping[str, int],
        *,
        now_us: int,
        granted: Granted | None = None,
    ) -> None:
        """Notes what was given of each limit, and what is to be registered."""
        book = self._books.setdefault(organization_id, _Book())
        book.changes_count += 1
        for state in states:
            key, quantity = limit_key(organization_id, state), quantities.get(state.limit.meter, 0)
            if state.limit.window is None:
                book.given[key] = book.given.get(key, 0) + quantity
            else:
                before = self.given(organization_id, key, window_us=state.limit.window.length_us, now_us=now_us)
                self._windows.put(key, (before + quantity, now_us))
        if granted is not None:
            self._granted_count += granted.grant.check.request_id not in book.granted
            book.granted[granted.grant.check.request_id] = granted

    def page(self, organization_id: str, terms: Terms | None, *, at_most: int, now_us: int) -> Page | None:
        """What to register next, no more than goes in one call under the terms; empty: only that something was given.
        None: the store knows all. A grant whose time is over is forgotten: what was used of it comes from the ledger.
        """
        book = self._books.get(organization_id)
        if book is None:
            return None
        load = Load(terms, checks_max=at_most)
        first = list(takewhile(lambda each: load.takes(each.grant.check), book.granted.values()))
        for each in first:
            if each.expire_us <= now_us:
                self._drop(book, each.grant.check.request_id)
        return Page([each for each in first if each.expire_us > now_us], book.changes_count)

    def registered(self, organization_id: str, page: Page) -> Mapping[LimitKey, int]:
        """Forgets what the store was told. Answers, when that was all, what had been given of each limit."""
        book = self._books.get(organization_id)
        if book is None:
            return {}
        for each in page.granted:
            # Unless it has grown meanwhile.
            if book.granted.get(each.grant.check.request_id) is each:
                self._drop(book, each.grant.check.request_id)
        if book.granted or book.changes_count != page.changes_count:
            return {}  # more to tell; what was given stays given until then
        del self._books[organization_id]
        return book.given

    def _drop(self, book: _Book, request_id: str) -> None:
        del book.granted[request_id]
        self._granted_count -= 1
