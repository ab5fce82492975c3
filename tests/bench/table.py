"""Figures, and the table that they are printed in."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured thing: its value in each round."""

    id: str
    name: str
    rounds: list[float]
    unit: str
    floor: str = ""
    """What it must be, as docs/performance.md states it; empty: told, not judged."""
    digits: int = 2

    @property
    def median(self) -> float:
        """The middle round."""
        return median(self.rounds)

    def row(self) -> tuple[str, str, str, str, str]:
        """As text: id, name, median with unit, lowest to highest round, floor."""
        spread = f"{_text(min(self.rounds), self.digits)} … {_text(max(self.rounds), self.digits)}"
        return (
            self.id,
            self.name,
            f"{_text(self.median, self.digits)} {self.unit}".rstrip(),
            spread if len(self.rounds) > 1 else "",
            self.floor,
        )


def percentile(values: list[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def print_table(figures: list[Figure]) -> None:
    """Prints the figures, aligned."""
    rows = [("id", "measure", "median", "rounds", "floor"), *(figure.row() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def _text(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"
