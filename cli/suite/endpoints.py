"""`endpoints.json`: how scripts find a suite that is up, and their sign that it is."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from kit.private_files import write_private_file


class EndpointsFile:
    """The file of one run. Only its owner may read it: it carries keys."""

    def __init__(self, path: Path, *, addresses: Mapping[str, object], pids: Callable[[], dict[str, int]]) -> None:
        self._path = path
        self._addresses = addresses
        self._pids = pids
        self._published = False

    def publish(self) -> None:
        """Write the file: from now on the suite is up."""
        self._published = True
        self.refresh()

    def refresh(self) -> None:
        """Write the file anew, if there is one, with the pids of this moment."""
        if self._published:
            document = {**self._addresses, "pids": self._pids()}
            write_private_file(self._path, json.dumps(document, indent=2) + "\n")

    def remove(self) -> None:
        """Remove the file, or one that a killed run left: the suite is not up."""
        self._published = False
        self._path.unlink(missing_ok=True)
