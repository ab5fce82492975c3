"""Runs with `python -m services.analytics`."""

from __future__ import annotations

from functools import partial

from kit.grpc.server import run
from kit.settings import load
from services.analytics.bootstrap import bootstrap
from services.analytics.config import AnalyticsSettings

if __name__ == "__main__":
    settings = load(AnalyticsSettings)
    run("analytics", settings, partial(bootstrap, settings))
