"""Reading back what is on paper."""

from __future__ import annotations

import io

import pypdf


def text_of_pdf(pdf: bytes) -> str:
    """All words of all pages, apart by one blank each."""
    return " ".join(" ".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages).split())
