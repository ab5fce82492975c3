"""Mails from Jinja templates: the first line is the subject, after an empty one comes the text.

Templates run in a sandbox and fail on a name that is not given. A template of the same name in the operator's folder
goes before ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from services.billing.domain.errors import TemplateBroken
from services.billing.domain.mails import EXAMPLE_DATA, MailKind

_OURS = Path(__file__).with_name("templates")
_EVERY_MAIL = {"customer": "Acme Corp.", "seller": "Tollbook", "seller_email": "billing@tollbook.example"}


class JinjaLetters:
    """LetterTexts over Jinja. Every template is tried when it is made, so that a broken one is known at start and not
    when a customer should hear of it: raises TemplateBroken.
    """

    def __init__(self, folder: Path | None = None) -> None:
        # Plain text: there is nothing to escape, and a name with an ampersand is to be read as it is.
        self._templates = SandboxedEnvironment(
            loader=FileSystemLoader([*([folder] if folder else []), _OURS]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
        )
        for kind, data in EXAMPLE_DATA.items():
            self.write(kind, {**_EVERY_MAIL, **data})

    def write(self, kind: MailKind, data: Mapping[str, str]) -> tuple[str, str]:
        """As LetterTexts."""
        name = f"{kind.value.lower()}.txt"
        try:
            written = self._templates.get_template(name).render(data)
        except TemplateError as error:
            msg = f"{name}: {error}"
            raise TemplateBroken(msg) from error
        subject, _, text = written.partition("\n")
        if not subject.strip() or not text.strip():
            msg = f"{name}: a subject, an empty line and a text are wanted"
            raise TemplateBroken(msg)
        return " ".join(subject.split()), text.strip() + "\n"
