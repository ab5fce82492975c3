"""What metering reads from its environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import NoDecode

from kit.grpc.server import ServerSettings
from services.metering.domain.limits import LABEL_KEYS_MAX
from services.metering.domain.validation import LABEL_KEYS

CONFIRMING_SERVICES = {"analytics", "billing"}
"""Who calls ConfirmPositions. Quota does not: it begins anew from totals, which remain."""
RETENTION_DAYS_MIN = 40
"""The database drops nothing younger either; see migrations/0007_retention.py."""
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_]{0,62}")


class CloudEventMeter(BaseModel):
    """How CloudEvents of one type that is not Tollbook's are counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    meter: str = Field(min_length=1)
    """The meter that they count on."""
    value: str = ""
    """The key of the data whose integer value is the quantity; empty: each event counts 1."""


class MeteringSettings(ServerSettings):
    """Besides what every server needs: the stores and the peers."""

    postgres_tenant_url: str
    """Role that reads one organization's events."""
    postgres_writer_url: str
    """Role that appends for any organization. It reads what dedupe and heads need, and of one organization at a time
    what is to be reversed.
    """
    postgres_fleet_url: str
    """Role that reads every head and makes partitions."""
    accounts_address: str
    """Who knows keys and organizations."""
    commit_transactions: int = Field(default=2, ge=1, le=6)
    """Transactions that take batches into the ledger side by side; each needs one of the writer's connections."""
    cloudevent_meters: dict[str, CloudEventMeter] = Field(default_factory=dict)
    """By the type of CloudEvents, as JSON: `{"request": {"meter": "api_calls"}}`. Other types are refused."""
    label_keys: Annotated[frozenset[str], NoDecode] = LABEL_KEYS
    """The keys that labels may have, separated by commas; empty: none. A key that is taken off the list stays on the
    events that have it.
    """

    retention_days: int = Field(default=90, ge=RETENTION_DAYS_MIN)
    """How old raw events may get. They are dropped by the week, once every one of it is older."""
    retention_followers: Annotated[tuple[str, ...], NoDecode] = ("analytics", "billing")
    """The services that must have passed raw events before they are dropped, separated by commas; empty: none."""
    archive_dir: Path | None = None
    """The folder for the raw events that are dropped; unset: none are. Shared, where several machines serve."""

    @field_validator("retention_followers", mode="before")
    @classmethod
    def _listed_followers(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        names = tuple(name.strip() for name in value.split(",")) if value.strip() else ()
        if unknown := sorted(set(names) - CONFIRMING_SERVICES):
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(sorted(CONFIRMING_SERVICES))}")
        return names

    @field_validator("label_keys", mode="before")
    @classmethod
    def _listed_label_keys(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        keys = [key.strip() for key in value.split(",")] if value.strip() else []
        for key in keys:
            if not _LABEL_KEY.fullmatch(key):
                raise ValueError(f"{key!r} is no key: a lower-case letter, then up to 62 letters, digits or `_`")
        if len(keys) > LABEL_KEYS_MAX:
            raise ValueError(f"{len(keys)} keys are more than {LABEL_KEYS_MAX}")
        return frozenset(keys)
