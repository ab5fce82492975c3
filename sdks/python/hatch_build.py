"""Puts the generated core, the import package `tollbook`, into what is built: it lives outside this folder, in gen/."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "tollbook"


class GeneratedCore(BuildHookInterface):  # type: ignore[type-arg] # the configuration's type is hatchling's own matter
    """The generated code is committed once and never copied by hand, so SDK and suite speak one contract."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        """Takes it from the source distribution that is being built from, else from the checkout."""
        unpacked = Path(self.root, PACKAGE)
        source = unpacked if unpacked.is_dir() else Path(self.root, "..", "..", "gen", "python", PACKAGE).resolve()
        build_data["force_include"][str(source)] = PACKAGE
