"""Every job of billing, in one place: what happens by itself, later than at once, and by one at a time.

A job says where to look; the rows say what is left to do. What must happen within a second, or is claimed from its own
list anyway (closing, collecting, dunning, Stripe's inbox), is no job: a claim makes one worker its owner without the
detour, and counts its attempts where an operator looks for them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from kit.jobs import Job, Jobs
from services.billing.application.expire_credits import ExpireCredits
from services.billing.application.let_go import LetGo
from services.billing.application.send_mails import SendMails

_SCHEMA = "billing"
_EVERY_FIVE_SECONDS = "* * * * * */5"
_EVERY_TEN_SECONDS = "* * * * * */10"
_DAILY = "17 3 * * *"
"""When little else is going on."""
_EVERY_HOUR = "17 * * * *"
"""At a minute that not everybody else begins something at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duties:
    """What the jobs do."""

    send_mails: SendMails
    expire_credits: ExpireCredits
    let_go: LetGo
    reconcile: Callable[[], Awaitable[None]]


async def keep_working(url: str, duties: Duties) -> None:
    """Does the jobs, over the fleet role's database until cancelled."""
    jobs: Jobs

    async def find_expired_credits() -> None:
        for organization_id in await duties.expire_credits.due():
            owner = f"credits/{organization_id}"
            await jobs.enqueue("expire_credits", {"organization_id": organization_id}, owner=owner, once=owner)

    async def expire_credits(organization_id: str) -> None:
        await duties.expire_credits(organization_id)

    jobs = Jobs(
        url,
        schema=_SCHEMA,
        jobs=[
            Job(name="send_mails", run=_until_nothing_is_due(duties.send_mails), every=_EVERY_FIVE_SECONDS),
            Job(name="find_expired_credits", run=find_expired_credits, every=_EVERY_TEN_SECONDS),
            Job(name="expire_credits", run=expire_credits),
            Job(name="let_go", run=duties.let_go, every=_EVERY_HOUR),
            Job(name="reconcile", run=duties.reconcile, every=_DAILY),
        ],
    )
    async with jobs.opened():
        await jobs.work()


def _until_nothing_is_due(step: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        while await step():
            pass

    return run
