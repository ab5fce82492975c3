"""Fall back on policy: what stands around everything that asks the store for a decision."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from services.quota.application.answer_degraded import AnswerDegraded
from services.quota.application.grants import Grants
from services.quota.application.last_seen import LastSeen
from services.quota.application.ports import Answer, Extended, StoreUnavailable
from services.quota.application.register_grants import RegisterGrants
from services.quota.domain.checks import Check


class Fallback:
    """Asks the store once it knows what was granted without it, notes what it says, and answers in its place while it
    is away.
    """

    def __init__(self, register: RegisterGrants, seen: LastSeen, degraded: AnswerDegraded, grants: Grants) -> None:
        self.register = register
        self._seen = seen
        self._degraded = degraded
        self._grants = grants

    async def check(self, check: Check, decided: Callable[[], Awaitable[Answer]]) -> Answer:
        """What is decided of the check; by AnswerDegraded.check when the store does not answer."""
        try:
            await self.register(check.organization_id)
            answer = await decided()
        except StoreUnavailable as unavailable:
            return self._degraded.check(check, unavailable)
        self._seen.note(check, answer)
        return answer

    def is_told(self, organization_id: str) -> bool:
        """Whether the store knows all that was granted without it: then it can be asked without this detour."""
        return organization_id not in self._grants

    def note(self, check: Check, answer: Answer) -> None:
        """Remembers what the store answered to who asked it himself."""
        self._seen.note(check, answer)

    def without_store(self, check: Check, unavailable: StoreUnavailable) -> Answer:
        """As AnswerDegraded.check."""
        return self._degraded.check(check, unavailable)

    async def checks(
        self,
        organization_id: str,
        checks: Sequence[Check],
        decided: Callable[[], Awaitable[Sequence[Answer | Exception]]],
    ) -> Sequence[Answer | Exception]:
        """The same of several checks of one organization, in order."""
        try:
            await self.register(organization_id)
            answers = await decided()
        except StoreUnavailable as unavailable:
            answers = [unavailable] * len(checks)
        settled: list[Answer | Exception] = []
        noted: Answer | None = None
        for check, answer in zip(checks, answers, strict=True):
            # Checks that were told the same by the same limits share their answer, and hold nothing.
            if answer is noted:
                settled.append(answer)
                continue
            settled.append(self._settled(check, answer))
            noted = answer if isinstance(answer, Answer) else None
        return settled

    async def check_all(
        self, organization_id: str, checks: Sequence[Check], decided: Callable[[], Awaitable[Sequence[Answer]]]
    ) -> Sequence[Answer]:
        """The same of consumptions that are allowed together or not at all."""
        try:
            await self.register(organization_id)
            answers = await decided()
        except StoreUnavailable as unavailable:
            return self._degraded.check_all(checks, unavailable)
        for check, answer in zip(checks, answers, strict=True):
            self._seen.note(check, answer)
        return answers

    async def extend(self, target: Check, decided: Callable[[], Awaitable[Extended]]) -> Extended:
        """The same of an extension."""
        try:
            await self.register(target.organization_id)
            extended = await decided()
        except StoreUnavailable as unavailable:
            return self._degraded.extend(target, unavailable)
        self._seen.note(target, extended.answer)
        return extended

    async def ending(self, organization_id: str, reservation_id: str) -> None:
        """Before a reservation is committed or released: if it was granted without the store, the store knows it now.
        Raises DependencyUnavailable.
        """
        await self.register(organization_id)
        self._seen.forget_reservation(organization_id, reservation_id)

    def _settled(self, check: Check, answer: Answer | Exception) -> Answer | Exception:
        if isinstance(answer, Answer):
            self._seen.note(check, answer)
        elif isinstance(answer, StoreUnavailable):
            try:
                return self._degraded.check(check, answer)
            except Exception as refusal:  # noqa: BLE001 - each check has its own outcome
                return refusal
        return answer
