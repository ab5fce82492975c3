"""Mails written from Jinja templates."""
