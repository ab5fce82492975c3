"""Runs with `python -m services.billing`."""

from __future__ import annotations

from functools import partial

from kit.grpc.server import run
from kit.settings import load
from services.billing.bootstrap import bootstrap
from services.billing.config import BillingSettings

if __name__ == "__main__":
    settings = load(BillingSettings)
    run("billing", settings, partial(bootstrap, settings))
