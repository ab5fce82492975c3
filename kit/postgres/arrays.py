"""Arrays as Postgres reads them: literals, for statements that take a column of rows as one parameter.

The driver's own take ten times as long, for it looks at each element with regular expressions; and what writing many
rows costs is mostly this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

_NUL = "\0"


def text_array(values: Collection[str | None]) -> str:
    """The literal of an array of these; None is NULL. Where all are None it is the empty array, which unnest fills up
    with NULL beside longer ones. Raises ValueError for NUL, which Postgres cannot store.
    """
    texts = [value for value in values if value is not None]
    if not texts:
        return "{}"
    # One pass over all of a column is several times as fast as one per element.
    joined = _NUL.join(texts)
    if joined.count(_NUL) != len(texts) - 1:
        raise ValueError("text with NUL")
    quoted = joined.replace("\\", "\\\\").replace('"', '\\"')
    if len(texts) == len(values):
        return '{"' + quoted.replace(_NUL, '","') + '"}'
    rest = iter(quoted.split(_NUL))
    return "{" + ",".join(["NULL" if value is None else f'"{next(rest)}"' for value in values]) + "}"


def number_array(values: Iterable[int]) -> str:
    """The literal of an array of whole numbers."""
    return "{" + ",".join([str(int(value)) for value in values]) + "}"


def bytes_array(values: Iterable[bytes]) -> str:
    """The literal of an array of bytea."""
    return "{" + ",".join([rf'"\\x{value.hex()}"' for value in values]) + "}"


def flag_array(values: Iterable[bool]) -> str:
    """The literal of an array of boolean."""
    return "{" + ",".join(["t" if value else "f" for value in values]) + "}"


def time_array(values: Iterable[datetime]) -> str:
    """The literal of an array of moments, each with its zone."""
    return '{"' + '","'.join([value.isoformat() for value in values]) + '"}'
