"""JSON logs, one object a line on stderr. Every line has a stable `event` key and, inside a call, its request id."""

from __future__ import annotations

import logging
import sys

import structlog

from kit.grpc.call import current_call


def add_request_id(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Adds the request id of the call in progress. When a line is written, because most calls write none."""
    call = current_call.get()
    if call is not None:
        event.setdefault("request_id", call.request_id)
    return event


def configure_logs(service: str, level: str = "INFO") -> None:
    """Sends structlog and the standard library's logs through one JSON renderer. Call once, at start."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_request_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak up only when something is wrong; our own code at the level that was asked for.
    root.setLevel(logging.WARNING)
    for package in ("kit", "services", "tools"):
        logging.getLogger(package).setLevel(level.upper())
    structlog.contextvars.bind_contextvars(service=service)
