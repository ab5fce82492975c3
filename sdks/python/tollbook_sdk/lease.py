"""A lease, as whoever spends it has it. leases.py keeps it filled."""

from __future__ import annotations

from typing import Self

from tollbook_sdk.core import Core
from tollbook_sdk.decision import Decision
from tollbook_sdk.leases import LeaseKeeper


class Lease:
    """A reservation that this process spends by itself. Any thread, any loop; it stops by itself before it ends.

    `try_spend` is the whole of it: what it allowed is also recorded as usage, once a second.
    """

    def __init__(self, core: Core, keeper: LeaseKeeper) -> None:
        self._core = core
        self._keeper = keeper
        self.try_spend = keeper.purse.try_spend
        """try_spend(quantity, task_id="") -> bool: spends it, if so much is left and the lease is valid; else changes
        nothing. Never waits; some hundreds of nanoseconds. The task, if any, bears the usage.
        """

    @property
    def lease_id(self) -> str:
        """Its reservation's id."""
        return self._keeper.terms.lease_id

    @property
    def left(self) -> int:
        """What may be spent now without another renewal; 0 when it is not valid."""
        return self._keeper.purse.left

    @property
    def spent(self) -> int:
        """What was spent in all."""
        return self._keeper.purse.spent

    @property
    def is_valid(self) -> bool:
        """Whether it holds now. It becomes valid again when a renewal succeeds."""
        return self._keeper.purse.is_valid

    @property
    def denial(self) -> Decision | None:
        """Why it is not filled up again; None: it is."""
        return self._keeper.denial

    def close(self) -> None:
        """Stops spending at once; what is left of the hold is freed in the background. `flush` waits for the usage."""
        self._keeper.purse.close()
        if self._core.engine.is_running:
            self._core.engine.submit(self._core.close_lease(self._keeper))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
