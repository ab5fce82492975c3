"""How much of each ledger the counters were seen to include: less means that the store was taken back in time."""

from __future__ import annotations

from collections import OrderedDict

from services.quota.domain.maxima import REMEMBERED_TERMS_MAX


class SeenSequences:
    """The highest applied sequence seen of each organization that was looked at lately."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, int] = OrderedDict()

    def of(self, organization_id: str) -> int:
        """What was seen; 0: nothing."""
        return self._seen.get(organization_id, 0)

    def note(self, organization_id: str, sequence: int) -> None:
        """Remembers it if it is higher."""
        if sequence > self.of(organization_id):
            self._seen[organization_id] = sequence
            self._seen.move_to_end(organization_id)
            if len(self._seen) > REMEMBERED_TERMS_MAX:
                self._seen.popitem(last=False)

    def forget(self, organization_id: str) -> None:
        """Forgets what was seen."""
        self._seen.pop(organization_id, None)
