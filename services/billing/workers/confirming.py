"""Keeps metering told which usage is invoiced."""

from __future__ import annotations

import asyncio

from services.billing.application.confirm_usage import ConfirmUsage
from services.billing.application.ports.usage import InvoicedLedger, LedgerHead

FIRST_AFTER_SECONDS = 60.0
CONFIRM_EVERY_SECONDS = 3600.0
"""Usage is dropped by the week."""


async def keep_confirming(ledger: InvoicedLedger, confirm_usage: ConfirmUsage) -> None:
    """Confirms the ledgers that there are, when their heads are known and then every hour, until cancelled or the
    ledger cannot be watched any more.
    """
    heads: dict[str, LedgerHead] = {}
    tasks = {asyncio.create_task(_watch(ledger, heads)), asyncio.create_task(_confirm(heads, confirm_usage))}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(ledger: InvoicedLedger, heads: dict[str, LedgerHead]) -> None:
    async for moved in ledger.watch():
        heads.update((head.organization_id, head) for head in moved)


async def _confirm(heads: dict[str, LedgerHead], confirm_usage: ConfirmUsage) -> None:
    await asyncio.sleep(FIRST_AFTER_SECONDS)
    while True:
        await confirm_usage(tuple(heads.values()))
        await asyncio.sleep(CONFIRM_EVERY_SECONDS)
