"""Mails, as a real SMTP server gets them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path

import pytest

from kit.errors import DependencyUnavailable
from kit.testing.clock import FakeClock
from services.billing.adapters.jinja_letters.letters import JinjaLetters
from services.billing.adapters.smtp_postman import SmtpPostman
from services.billing.domain.errors import MailRefused, TemplateBroken
from services.billing.domain.mails import EXAMPLE_DATA, Attachment, Letter, MailKind
from services.billing.domain.smtp_servers import SmtpServer, sender_of
from tests.smtp_sink import SmtpSink, smtp_sink

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SENDER = Address("Tollbook", "billing", "tollbook.example")
LETTER = Letter(
    letter_id="mail_1",
    to="accounts@acme.example",
    subject="Invoice TB-000042 from Tollbøøk: USD 53.99",
    text="Hello Łódź,\n\nyour invoice is attached.\n",
    attachments=(Attachment("TB-000042.pdf", "application/pdf", b"%PDF-1.7\x00\xff"),),
)
EVERY_MAIL = {"customer": "Łódź & Sons", "seller": "Tollbook", "seller_email": "billing@tollbook.example"}


@pytest.fixture
async def sink() -> AsyncIterator[SmtpSink]:
    async with smtp_sink() as running:
        yield running


def postman(url: str) -> SmtpPostman:
    return SmtpPostman(SmtpServer.from_url(url), SENDER, FakeClock(NOW))


def text_of(message: EmailMessage) -> str:
    body = message.get_body(("plain",))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


async def test_a_letter_arrives_as_it_was_written_with_its_attachments(sink: SmtpSink) -> None:
    await postman(sink.url).send(LETTER)
    [message] = sink.taken
    assert (message["To"], message["Subject"]) == (LETTER.to, LETTER.subject)
    assert message["From"] == str(SENDER)
    assert text_of(message) == LETTER.text
    [attached] = message.iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == ("TB-000042.pdf", "application/pdf")
    assert attached.get_content() == LETTER.attachments[0].content


async def test_a_letter_sent_again_is_the_same_mail(sink: SmtpSink) -> None:
    for _ in range(2):
        await postman(sink.url).send(LETTER)
    assert [message["Message-ID"] for message in sink.taken] == ["<mail_1@tollbook.example>"] * 2


async def test_a_server_that_says_later_is_tried_again_and_one_that_says_no_is_not(sink: SmtpSink) -> None:
    for answer, refusal in {"451 later": DependencyUnavailable, "550 nobody here": MailRefused}.items():
        sink.to_recipient = answer
        with pytest.raises(refusal):
            await postman(sink.url).send(LETTER)
        sink.to_recipient, sink.to_data = "250 OK", answer
        with pytest.raises(refusal):
            await postman(sink.url).send(LETTER)
        sink.to_data = "250 OK"
    assert sink.taken == []


async def test_a_connection_lost_after_the_letter_was_taken_is_tried_again(sink: SmtpSink) -> None:
    sink.drops_after_data = True
    with pytest.raises(DependencyUnavailable):
        await postman(sink.url).send(LETTER)
    assert len(sink.taken) == 1


async def test_a_server_that_is_not_there_is_tried_again() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"smtp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DependencyUnavailable):
            await postman(url).send(LETTER)


async def test_where_tls_is_required_nothing_is_sent_without(sink: SmtpSink) -> None:
    for url in (f"{sink.url}?tls=require", sink.url.replace("://", "://user:secret@")):
        with pytest.raises(DependencyUnavailable):
            await postman(url).send(LETTER)
    assert sink.taken == []


@pytest.mark.parametrize(
    "address", ["no address", "two@a.example, b@b.example", "a@b\r\nBcc: c@d.example", "", "@", "a@", "<"]
)
async def test_what_is_no_address_is_refused_and_nothing_is_sent(sink: SmtpSink, address: str) -> None:
    with pytest.raises(MailRefused):
        await postman(sink.url).send(replace(LETTER, to=address))
    assert sink.taken == []


async def test_a_subject_cannot_add_a_header(sink: SmtpSink) -> None:
    with pytest.raises(MailRefused):
        await postman(sink.url).send(replace(LETTER, subject="Hello\r\nBcc: c@d.example"))
    assert sink.taken == []


@pytest.mark.parametrize("kind", MailKind)
def test_every_kind_of_mail_has_a_subject_and_says_what_it_is_given(kind: MailKind) -> None:
    data = EXAMPLE_DATA[kind]
    subject, text = JinjaLetters().write(kind, {**EVERY_MAIL, **data})
    assert "\n" not in subject
    for name, value in {**data, "customer": EVERY_MAIL["customer"], "seller": "Tollbook"}.items():
        assert value in subject + text, name


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("Hello {{ custmer }}\n\ntext\n", "custmer"),
        ("Hello {{ number\n\ntext\n", "expected token"),
        ("Only a subject\n", "a subject, an empty line and a text"),
        ("{{ number.__class__.__mro__ }}\n\ntext\n", "unsafe"),
    ],
)
def test_a_broken_template_of_the_operators_is_named_before_any_mail_is_written(
    tmp_path: Path, template: str, problem: str
) -> None:
    (tmp_path / "invoice_issued.txt").write_text(template)
    with pytest.raises(TemplateBroken, match=r"invoice_issued\.txt") as broken:
        JinjaLetters(tmp_path)
    assert problem in str(broken.value)


def test_the_operators_templates_go_before_ours(tmp_path: Path) -> None:
    (tmp_path / "payment_received.txt").write_text("Danke, {{ customer }}\n\n{{ total }} erhalten.\n")
    letters = JinjaLetters(tmp_path)
    data = {**EVERY_MAIL, **EXAMPLE_DATA[MailKind.PAYMENT_RECEIVED]}
    assert letters.write(MailKind.PAYMENT_RECEIVED, data) == ("Danke, Łódź & Sons", "USD 53.99 erhalten.\n")
    assert letters.write(MailKind.TRIAL_ENDING, {**EVERY_MAIL, **EXAMPLE_DATA[MailKind.TRIAL_ENDING]})


@pytest.mark.parametrize("url", ["", "mail.example", "http://mail.example", "smtp://", "smtp://mail.example?tls=no"])
def test_what_is_no_mail_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is wanted"):
        SmtpServer.from_url(url)


def test_who_mails_are_from_is_a_name_and_an_address_or_the_address_alone() -> None:
    assert sender_of("Acme Billing <billing@acme.example>") == Address("Acme Billing", "billing", "acme.example")
    assert sender_of("billing@acme.example") == Address("", "billing", "acme.example")


@pytest.mark.parametrize("text", ["", "Acme", "Acme <>", "Acme <billing>", "@acme.example", "a b@acme.example"])
def test_who_has_no_address_sends_no_mail(text: str) -> None:
    with pytest.raises(ValueError, match="is wanted"):
        sender_of(text)
