"""Stripe's form encoding: `lines[0][period][start]=5` is `{"lines": {"0": {"period": {"start": "5"}}}}`."""

import re
from collections.abc import Iterable
from typing import TypeAlias

from tools.stripe_simulator.errors import StripeError

Tree: TypeAlias = dict[str, "str | Tree"]

# More than the longest call there is, 250 lines of some ten fields each; and deeper than any parameter.
_FIELDS_MAX = 10_000
_DEPTH_MAX = 8

_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PART = re.compile(r"\[([^\[\]]*)\]")


def decode(fields: Iterable[tuple[str, str]]) -> Tree:
    """Nests decoded form or query fields; a list is a tree whose keys are its indexes.

    An empty index (`expand[]=a`) is the next one. Refuses malformed keys, and a key that is both a value and a
    parent. Of two equal keys the last counts, as it does at Stripe.
    """
    tree: Tree = {}
    for count, (key, value) in enumerate(fields, start=1):
        if count > _FIELDS_MAX:
            raise _malformed(f"More than {_FIELDS_MAX} parameters.")
        _insert(tree, key, value)
    return tree


def _insert(tree: Tree, key: str, value: str) -> None:
    match = _KEY.fullmatch(key)
    if match is None:
        raise _malformed(f"Invalid parameter name: {key}")
    parts = [match[1], *_PART.findall(match[2])]
    if len(parts) > _DEPTH_MAX:
        raise _malformed(f"Too deeply nested: {key}")
    node = tree
    for part in parts[:-1]:
        child = node.setdefault(part or str(len(node)), {})
        if isinstance(child, str):
            raise _malformed(f"Both a value and a parent: {key}")
        node = child
    last = parts[-1] or str(len(node))
    if isinstance(node.get(last), dict):
        raise _malformed(f"Both a value and a parent: {key}")
    node[last] = value


def _malformed(message: str) -> StripeError:
    return StripeError(message, saved=False)
