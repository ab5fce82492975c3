"""Schedule closes: when the next cut of a subscription comes by itself."""

from __future__ import annotations

from services.billing.application.ports.books import Book
from services.billing.domain.catalog import FREE_PLAN
from services.billing.domain.closing import next_cut
from services.billing.domain.timeline import Timeline


async def schedule_closes(book: Book) -> None:
    """Puts every subscription of the organization on the list of what is due, or takes it off. To be called whenever a
    timeline was written, in the same transaction: beginning one ends another.
    """
    for timeline in await book.subscriptions.timelines():
        await schedule_close(book, timeline)


async def schedule_close(book: Book, timeline: Timeline) -> None:
    """The same for one subscription. One that never was anything but free of charge is not on the list."""
    if all(phase.plan.plan_id == FREE_PLAN for phase in timeline.phases):
        return
    made = {close.cut for close in await book.closes.of(timeline.subscription_id)}
    scheduled = next_cut(timeline, made)
    await book.closes.schedule(timeline.subscription_id, scheduled.at if scheduled else None)
