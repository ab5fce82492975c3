"""Runs with `python -m services.quota`."""

from __future__ import annotations

from functools import partial

from kit.grpc.server import run
from kit.settings import load
from services.quota.bootstrap import bootstrap
from services.quota.config import QuotaSettings

if __name__ == "__main__":
    settings = load(QuotaSettings)
    run("quota", settings, partial(bootstrap, settings))
