"""Files on the wire."""

from __future__ import annotations

from google.api.httpbody_pb2 import HttpBody

from services.billing.application.print_papers import File

PDF = "application/pdf"


def file_to_pb(file: File) -> HttpBody:
    """The file as the body of an answer."""
    return HttpBody(content_type=PDF, data=file.content)
