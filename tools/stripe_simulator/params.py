"""Typed reading of a call's parameters. What a handler does not read, it does not know: finish() refuses it."""

import re
from collections.abc import Collection
from decimal import Decimal, InvalidOperation

from tools.stripe_simulator.errors import parameter_invalid, parameter_missing, parameter_unknown
from tools.stripe_simulator.forms import Tree

_INTEGER = re.compile(r"-?\d{1,15}")
_CURRENCY = re.compile(r"[a-zA-Z]{3}")

# Stripe's limits, at https://docs.stripe.com/api/metadata.
_METADATA_KEYS_MAX = 50
_METADATA_KEY_LENGTH_MAX = 40
_METADATA_VALUE_LENGTH_MAX = 500

# https://docs.stripe.com/api/prices: at most twelve decimal places.
_DECIMAL_PLACES_MAX = 12


class Params:
    """The parameters of one call, or one nested group of them; each read takes its parameter out."""

    def __init__(self, tree: Tree, path: str = "") -> None:
        self._tree = dict(tree)
        self._path = path
        self._groups: list[Params] = []

    def __contains__(self, name: str) -> bool:
        """Whether it was sent and not read yet, empty or not."""
        return name in self._tree

    def names(self) -> list[str]:
        """What was sent and not read yet."""
        return list(self._tree)

    def is_text(self, name: str) -> bool:
        """Whether it was sent as a plain value, and not read yet."""
        return isinstance(self._tree.get(name), str)

    def tree(self, name: str) -> Tree:
        """What was sent as a nested group, as it was sent, and is still to be read; empty when it was not."""
        value = self._tree.get(name)
        return dict(value) if isinstance(value, dict) else {}

    def text_is_empty(self, name: str) -> bool:
        """Whether it was sent as an empty value, which unsets a group, and not read yet."""
        return self._tree.get(name) == ""

    def name(self, name: str) -> str:
        """The parameter's full name, as error answers spell it."""
        return f"{self._path}[{name}]" if self._path else name

    def text(self, name: str) -> str | None:
        """A string; None when it was not sent. Stripe's clients send an empty one to unset a field."""
        value = self._tree.pop(name, None)
        if isinstance(value, dict):
            raise parameter_invalid(self.name(name), f"Invalid string: {self.name(name)}")
        return value

    def required_text(self, name: str) -> str:
        """A string that is neither absent nor empty."""
        value = self.text(name)
        if value is None:
            raise parameter_missing(self.name(name))
        if not value:
            message = f"You passed an empty string for '{self.name(name)}'."
            raise parameter_invalid(self.name(name), message, code="parameter_invalid_empty")
        return value

    def integer(self, name: str) -> int | None:
        """A whole number; None when it was not sent."""
        value = self.text(name)
        if value is None:
            return None
        if not _INTEGER.fullmatch(value):
            raise parameter_invalid(self.name(name), f"Invalid integer: {value}", code="parameter_invalid_integer")
        return int(value)

    def decimal(self, name: str) -> Decimal | None:
        """A number with at most twelve decimals; None when it was not sent."""
        value = self.text(name)
        if value is None:
            return None
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("NaN")
        exponent = number.as_tuple().exponent
        if not isinstance(exponent, int) or -exponent > _DECIMAL_PLACES_MAX or abs(number) >= 10**15:
            raise parameter_invalid(self.name(name), f"Invalid decimal: {value}")
        return number

    def boolean(self, name: str) -> bool | None:
        """`true` or `false`; None when it was not sent."""
        value = self.text(name)
        if value is None:
            return None
        if value not in {"true", "false"}:
            raise parameter_invalid(self.name(name), f"Invalid boolean: {value}")
        return value == "true"

    def choice(self, name: str, choices: Collection[str]) -> str | None:
        """One of the strings; None when it was not sent."""
        value = self.text(name)
        if value is not None and value not in choices:
            known = " or ".join(sorted(choices))
            raise parameter_invalid(self.name(name), f"Invalid {self.name(name)}: must be one of {known}")
        return value

    def currency(self, name: str = "currency") -> str | None:
        """A currency code in lower case; None when it was not sent."""
        value = self.text(name)
        if value is None:
            return None
        if not _CURRENCY.fullmatch(value):
            raise parameter_invalid(self.name(name), f"Invalid currency: {value}")
        return value.lower()

    def group(self, name: str) -> "Params | None":
        """A nested group; None when it was not sent, or sent empty."""
        value = self._tree.pop(name, None)
        if value is None or value == "":
            return None
        if isinstance(value, str):
            raise parameter_invalid(self.name(name), "Invalid object")
        return self._nested(value, self.name(name))

    def groups(self, name: str) -> "list[Params]":
        """A list of nested groups, in the order of their indexes; empty when it was not sent."""
        found = []
        for index, value in self._indexed(name):
            if isinstance(value, str):
                raise parameter_invalid(f"{self.name(name)}[{index}]", "Invalid object")
            found.append(self._nested(value, f"{self.name(name)}[{index}]"))
        return found

    def texts(self, name: str) -> list[str]:
        """A list of strings, in the order of their indexes; empty when it was not sent."""
        found = []
        for index, value in self._indexed(name):
            if isinstance(value, dict):
                raise parameter_invalid(f"{self.name(name)}[{index}]", "Invalid string")
            found.append(value)
        return found

    def metadata(self, name: str, current: dict[str, str]) -> dict[str, str]:
        """The metadata after this call: keys are merged, an empty value removes one, an empty group all."""
        if self._tree.get(name) == "":
            del self._tree[name]
            return {}
        group = self.group(name)
        if group is None:
            return current
        merged = dict(current)
        for key in group.names():
            value = group.text(key) or ""
            if len(key) > _METADATA_KEY_LENGTH_MAX or len(value) > _METADATA_VALUE_LENGTH_MAX:
                message = (
                    f"Metadata keys have up to {_METADATA_KEY_LENGTH_MAX} characters, "
                    f"values up to {_METADATA_VALUE_LENGTH_MAX}."
                )
                raise parameter_invalid(group.name(key), message)
            if value:
                merged[key] = value
            else:
                merged.pop(key, None)
        if len(merged) > _METADATA_KEYS_MAX:
            raise parameter_invalid(self.name(name), f"Metadata has up to {_METADATA_KEYS_MAX} keys.")
        return merged

    def finish(self) -> None:
        """Refuses the first parameter that nobody read, here or in a group; what the call did is rolled back."""
        for name in self._tree:
            raise parameter_unknown(self.name(name))
        for group in self._groups:
            group.finish()

    def _nested(self, tree: Tree, path: str) -> "Params":
        group = Params(tree, path)
        self._groups.append(group)
        return group

    def _indexed(self, name: str) -> list[tuple[int, str | Tree]]:
        value = self._tree.pop(name, None)
        if value is None or value == "":
            return []
        if isinstance(value, str) or not all(index.isdecimal() for index in value):
            raise parameter_invalid(self.name(name), "Invalid array")
        return sorted((int(index), item) for index, item in value.items())
