"""Runs with `python -m services.metering`."""

from __future__ import annotations

from functools import partial

from kit.grpc.server import run
from kit.settings import load
from services.metering.bootstrap import bootstrap
from services.metering.config import MeteringSettings

if __name__ == "__main__":
    settings = load(MeteringSettings)
    run("metering", settings, partial(bootstrap, settings))
