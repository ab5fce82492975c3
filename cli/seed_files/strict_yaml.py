"""YAML as its author wrote it: scalars stay strings, every key is asked for, every refusal names its line.

A YAML loader turns `0.10` into a float and `no` into False before anyone can object; money and quantities
must pass through neither. So the document is read as nodes, which keep the text and its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

_BYTES_MAX = 1024 * 1024


class FileRefused(ValueError):
    """The file breaks a rule; the message names the file, the line where known, the place and the rule."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One value in the document: a mapping, a list or a scalar."""

    path: Path
    where: str
    """Its place in words, such as `plan starter, meter agent_minutes, limit`; empty at the top."""
    node: yaml.Node

    def refused(self, problem: str) -> FileRefused:
        """The error to raise about this value."""
        place = f" {self.where}:" if self.where else ""
        return FileRefused(f"{self.path}:{self.node.start_mark.line + 1}:{place} {problem}")

    def named(self, where: str) -> Entry:
        """The same value under another description of its place."""
        return Entry(self.path, where, self.node)

    def entries(self) -> dict[str, Entry]:
        """A mapping's values by key, in the order of the file. Refuses a repeated key."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.refused(f"must be a mapping, not {_kind(self.node)}")
        found: dict[str, Entry] = {}
        for key, value in self.node.value:
            if not isinstance(key, yaml.ScalarNode) or not key.value:
                raise self.refused("a key must be a word")
            # The key's line: that of an empty value is the line after it.
            if key.value in found:
                raise Entry(self.path, self.where, key).refused(f"the key {key.value!r} is there twice")
            found[key.value] = Entry(self.path, ", ".join(filter(None, (self.where, key.value))), value)
        return found

    def fields(self, *, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Entry]:
        """A mapping's values. Refuses a missing key and one that is in neither list."""
        wanted = list(required)
        known = [*wanted, *optional]
        found = self.entries()
        for name, entry in found.items():
            if name not in known:
                raise entry.named(self.where).refused(f"unknown key {name!r}; known are {', '.join(known)}")
        missing = [name for name in wanted if name not in found]
        if missing:
            raise self.refused(f"{', '.join(missing)} missing")
        return found

    def items(self) -> list[Entry]:
        """A list's values."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.refused(f"must be a list, not {_kind(self.node)}")
        return [
            Entry(self.path, f"{self.where} {number}".strip(), node)
            for number, node in enumerate(self.node.value, start=1)
        ]

    def text(self) -> str:
        """A scalar, as written. Refuses an empty one."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.refused(f"must be a single value, not {_kind(self.node)}")
        value: str = self.node.value
        if not value.strip():
            raise self.refused("is empty")
        return value


def read_yaml(path: Path) -> Entry:
    """The one document of a file. Raises FileRefused when it cannot be read or is no YAML."""
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
        if len(content) > _BYTES_MAX:
            msg = f"{path}: larger than {_BYTES_MAX} bytes"
            raise FileRefused(msg)
        root = yaml.compose(content.decode("utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise FileRefused(msg) from None
    except UnicodeDecodeError as error:
        msg = f"{path}: not UTF-8 at byte {error.start}"
        raise FileRefused(msg) from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        msg = f"{path}{line}: not YAML: {error.problem or error.context}"
        raise FileRefused(msg) from None
    except (yaml.YAMLError, RecursionError) as error:
        msg = f"{path}: not YAML: {error}"
        raise FileRefused(msg) from None
    if root is None:
        msg = f"{path}: is empty"
        raise FileRefused(msg)
    return Entry(path, "", root)


def _kind(node: yaml.Node) -> str:
    match node:
        case yaml.MappingNode():
            return "a mapping"
        case yaml.SequenceNode():
            return "a list"
        case _:
            return "a single value"
