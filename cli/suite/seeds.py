"""The two files that a new suite begins with: the plan catalog and the provider prices."""

import importlib
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

from cli.seed_files.plans import CatalogError, read_catalog
from cli.seed_files.prices import PricesError, read_prices
from cli.suite.errors import Refused


def refuse_bad_plans(path: Path) -> None:
    """Raise Refused, naming file and line, unless the file is a plan catalog."""
    try:
        read_catalog(path)
    except CatalogError as error:
        raise Refused(str(error)) from None


def refuse_bad_prices(path: Path) -> None:
    """Raise Refused, naming file and line, unless the file holds provider prices."""
    try:
        read_prices(path)
    except PricesError as error:
        raise Refused(str(error)) from None


async def apply_plans(path: Path, *, billing_address: str, metering_address: str, admin_key: str) -> None:
    """Apply the catalog; raises Refused with billing's own message where billing refuses it."""
    try:
        await _call(
            "cli.catalog",
            "apply_catalog",
            path,
            billing_address=billing_address,
            metering_address=metering_address,
            admin_key=admin_key,
        )
    except CatalogError as error:
        raise Refused(str(error)) from None


async def apply_prices(path: Path, *, analytics_address: str, admin_key: str) -> None:
    """Set the prices; raises Refused with analytics' own message where analytics refuses them."""
    try:
        await _call("cli.prices", "seed_prices", path, analytics_address=analytics_address, admin_key=admin_key)
    except PricesError as error:
        raise Refused(str(error)) from None


async def _call(module_name: str, function: str, path: Path, **arguments: str) -> None:
    # By name, so that the generated code behind it is imported only here, while the services start.
    work = getattr(importlib.import_module(module_name), function)
    await cast("Awaitable[Any]", work(path, **arguments))
