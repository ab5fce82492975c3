"""Figures, and the table that they are printed in."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What a figure must reach: at least, or at most, so much."""

    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value reaches it."""
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)

    def text(self, digits: int) -> str:
        """As in a table."""
        low = "" if self.at_least is None else f"≥ {_text(self.at_least, digits)}"
        return low if self.at_most is None else f"{low} ≤ {_text(self.at_most, digits)}".strip()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured thing: its value in each round. The median is judged."""

    id: str
    name: str
    rounds: list[float]
    unit: str
    floor: Floor | None = None
    """None: told, not judged."""
    digits: int = 2

    @property
    def median(self) -> float:
        """The middle round."""
        return median(self.rounds)

    @property
    def is_missed(self) -> bool:
        """Whether it has a floor and does not reach it."""
        return self.floor is not None and not self.floor.holds(self.median)

    def row(self) -> tuple[str, ...]:
        """As text: id, name, median with unit, lowest to highest round, floor, whether that is reached."""
        spread = f"{_text(min(self.rounds), self.digits)} … {_text(max(self.rounds), self.digits)}"
        return (
            self.id,
            self.name,
            f"{_text(self.median, self.digits)} {self.unit}".rstrip(),
            spread if len(self.rounds) > 1 else "",
            "" if self.floor is None else self.floor.text(self.digits),
            "" if self.floor is None else "MISSED" if self.is_missed else "ok",
        )


def percentile(values: list[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def print_table(figures: list[Figure]) -> None:
    """Prints the figures, aligned."""
    rows = [("id", "measure", "median", "rounds", "floor", ""), *(figure.row() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def _text(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"
