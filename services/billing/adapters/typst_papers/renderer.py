"""Sets papers as PDF with Typst: an archivable, tagged PDF/A-2a, byte by byte the same for the same content."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typst

from services.billing.domain.papers import Paper
from services.billing.domain.profile import Party

_TEMPLATE = Path(__file__).with_name("paper.typ")


class TypstPapers:
    """Papers over Typst.

    Only its own fonts and those of `font_paths` are used, never the system's: what a paper looks like must not depend
    on the machine. Its own have Latin, Greek and Cyrillic; whoever bills in other scripts names a folder with a font.
    """

    def __init__(self, font_paths: Sequence[Path] = ()) -> None:
        self._font_paths = list(font_paths)

    async def render(self, paper: Paper) -> bytes:
        """As Papers."""
        # Off the event loop: a page takes milliseconds, an invoice of a thousand lines a second.
        return await asyncio.to_thread(self._render, paper)

    def _render(self, paper: Paper) -> bytes:
        return typst.compile(
            _TEMPLATE,
            format="pdf",
            font_paths=self._font_paths,
            ignore_system_fonts=True,
            sys_inputs={"paper": json.dumps(_to_json(paper))},
            pdf_standards="a-2a",
            # A PDF says when it was made to the second.
            timestamp=paper.issue_time.replace(microsecond=0),
        )


def _to_json(paper: Paper) -> dict[str, object]:
    return {
        "title": paper.title,
        "number": paper.number,
        "seller": _party(paper.seller),
        "buyer": _party(paper.buyer),
        "facts": [asdict(fact) for fact in paper.facts],
        "currency_code": paper.currency_code,
        "lines": [asdict(line) for line in paper.lines],
        "totals": [{"name": total.name, "amount": total.amount, "strong": total.is_strong} for total in paper.totals],
        "status": paper.status,
        "notes": paper.notes,
        "letter": paper.is_letter,
    }


def _party(party: Party) -> dict[str, object]:
    return {
        "name": party.legal_name,
        "address_lines": [*party.address_lines, *([party.country_code] if party.country_code else [])],
        "tax_id": party.tax_id,
        "email": party.mail,
    }
