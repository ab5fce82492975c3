"""Runs with `python -m services.accounts`."""

from __future__ import annotations

from functools import partial

from kit.grpc.server import run
from kit.settings import load
from services.accounts.bootstrap import bootstrap
from services.accounts.config import AccountsSettings

if __name__ == "__main__":
    settings = load(AccountsSettings)
    run("accounts", settings, partial(bootstrap, settings))
