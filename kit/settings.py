"""Settings from the environment, with a message that a person can act on when one is bad."""

from __future__ import annotations

import sys
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

EXIT_BAD_SETTINGS = 2


class Settings(BaseSettings):
    """Settings read from `TOLLBOOK_*` variables; frozen, so that nobody changes them on the way."""

    model_config = SettingsConfigDict(env_prefix="TOLLBOOK_", frozen=True, extra="ignore", populate_by_name=True)


_S = TypeVar("_S", bound=BaseSettings)


def load(settings_type: type[_S]) -> _S:
    """Reads the settings; on a bad or missing one names every such variable on stderr and exits with 2."""
    try:
        return settings_type()
    except ValidationError as error:
        prefix = str(settings_type.model_config.get("env_prefix") or "")
        aliases = {field.validation_alias for field in settings_type.model_fields.values()}
        for problem in error.errors(include_input=False, include_url=False):
            # A problem is told under the field's alias where it has one, which then is the variable as it stands.
            name = str(problem["loc"][0]) if problem["loc"] else "?"
            variable = name if name in aliases else f"{prefix}{name}".upper()
            print(f"bad setting {variable}: {problem['msg']}", file=sys.stderr)  # noqa: T201 - before logging stands
        raise SystemExit(EXIT_BAD_SETTINGS) from None
    except SettingsError as error:
        # A structured one that is not JSON; the message names the field and quotes nothing.
        print(f"bad setting: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(EXIT_BAD_SETTINGS) from None
