"""From OpenTelemetry's attributes of a model call to a usage event.

After OpenTelemetry's GenAI semantic conventions, version 1.41, and the older and other spellings in use. Only the
attributes that are named in this file are ever looked at: none of them holds a prompt, an answer or a tool's arguments.

Token classes. The conventions count cached tokens within input_tokens and reasoning tokens within output_tokens, at
every provider. Spellings of before that carry what the provider's own API said, and there providers differ: see
`_COUNTING`. What is counted within another number is taken out of it here, so that the classes of a ProviderCall are
disjoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from services.metering.domain import limits, sources
from services.metering.domain.events import CallOutcome, Measurement, ProviderCall, Subject, UsageEvent
from services.metering.domain.refusals import Refusal

ADAPTER_VERSION = 2
"""Raised with every change of what a record maps to. A record that is sent again across such a change is a conflict,
unless only its measurements changed: these follow from the call, and the content digest leaves them out.
"""

AttributeValue: TypeAlias = str | int | float | bool


class Share(Enum):
    """How a token class relates to the number it belongs to, input_tokens or output_tokens."""

    WITHIN = "WITHIN"
    APART = "APART"


@dataclass(frozen=True, slots=True)
class Counting:
    """How a provider's own API counts."""

    cache: Share = Share.WITHIN
    reasoning: Share = Share.WITHIN


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """A span or a log record of a model call."""

    attributes: Mapping[str, AttributeValue]
    """Those of `ATTRIBUTES` that it has, laid over those of `RESOURCE_ATTRIBUTES` that its resource has."""
    scope: str
    """The name of the instrumentation."""
    trace_id: bytes
    span_id: bytes
    time_ns: int
    """When the call ended; 0: not said."""
    latency_ns: int | None
    is_error: bool
    is_log: bool


# Older names of providers, and how some instrumentations spell them, as the conventions call them now.
_PROVIDERS = {
    "aws": "aws.bedrock",
    "az.ai.inference": "azure.ai.inference",
    "az.ai.openai": "azure.ai.openai",
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "google": "gcp.gen_ai",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "xai": "x_ai",
}
# Where a provider's API differs from OpenAI's, which counts both within:
# Anthropic: input_tokens excludes cache_read_input_tokens and cache_creation_input_tokens.
# Bedrock: inputTokens excludes cacheReadInputTokens and cacheWriteInputTokens.
# Gemini: promptTokenCount includes cachedContentTokenCount; candidatesTokenCount excludes thoughtsTokenCount.
# xAI: completion_tokens excludes reasoning_tokens.
_COUNTING = {
    "anthropic": Counting(cache=Share.APART),
    "aws.bedrock": Counting(cache=Share.APART),
    "gcp.gemini": Counting(reasoning=Share.APART),
    "gcp.gen_ai": Counting(reasoning=Share.APART),
    "gcp.vertex_ai": Counting(reasoning=Share.APART),
    "x_ai": Counting(reasoning=Share.APART),
}
# Instrumentations that add Anthropic's cached tokens to the input also where they use the older spellings.
_SCOPES_WITHIN = frozenset({"opentelemetry.instrumentation.anthropic"})

_PROVIDER = ("gen_ai.provider.name", "gen_ai.system")
_MODEL = ("gen_ai.response.model", "gen_ai.request.model")
_OPERATION = "gen_ai.operation.name"
_INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
_ERROR_TYPE = "error.type"
_RESERVATION = "tollbook.reservation_id"
# Spelling -> whether it is a share by its definition; None: as the provider counts.
_CACHE_READ: dict[str, Share | None] = {
    "gen_ai.usage.cache_read.input_tokens": Share.WITHIN,
    "gen_ai.usage.input_tokens.cached": Share.WITHIN,
    "gen_ai.usage.cache_read_input_tokens": None,
}
_CACHE_WRITE: dict[str, Share | None] = {
    "gen_ai.usage.cache_creation.input_tokens": Share.WITHIN,
    "gen_ai.usage.cache_write.input_tokens": Share.WITHIN,
    "gen_ai.usage.input_tokens.cache_write": Share.WITHIN,
    "gen_ai.usage.cache_creation_input_tokens": None,
}
_REASONING: dict[str, Share | None] = {
    "gen_ai.usage.reasoning.output_tokens": Share.WITHIN,
    "gen_ai.usage.output_tokens.reasoning": Share.WITHIN,
    "gen_ai.usage.reasoning_tokens": None,
}
# The first that is there counts. A user is taken only as a surrogate: never user.id, enduser.id or a mail address.
_SUBJECT = {
    "project_id": ("tollbook.project_id",),
    "team_id": ("tollbook.team_id",),
    "user_id": ("tollbook.user_id", "enduser.pseudo.id"),
    "agent_id": ("tollbook.agent_id", "gen_ai.agent.id"),
    "task_id": ("tollbook.task_id",),
    "session_id": ("tollbook.session_id", "gen_ai.conversation.id", "session.id"),
}

RESOURCE_ATTRIBUTES = frozenset(name for names in _SUBJECT.values() for name in names)
ATTRIBUTES = RESOURCE_ATTRIBUTES.union(
    _PROVIDER, _MODEL, _INPUT, _OUTPUT, _CACHE_READ, _CACHE_WRITE, _REASONING, (_OPERATION, _ERROR_TYPE, _RESERVATION)
)

# Spans around calls: they sum up what the calls within them report themselves, or are no calls.
_NO_CALLS = frozenset({"create_agent", "execute_tool", "invoke_agent", "invoke_workflow", "plan", "retrieval"})
_CALLS = frozenset({"chat", "embeddings", "generate_content", "text_completion"})
_CANCELLATIONS = frozenset({"cancelled", "canceled", "CancelledError", "asyncio.exceptions.CancelledError"})


class _Unusable(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(reason, message)


def usage_event(record: CallRecord, organization_id: str) -> UsageEvent | Refusal | None:
    """The usage event of a record, or why it is refused; None when it reports no model call."""
    if not _is_call(record):
        return None
    try:
        call = _call(record)
        return UsageEvent(
            id=_identity(record),
            source=sources.OTLP,
            subject=Subject(
                organization_id=organization_id,
                **{name: _text(record, *spellings) for name, spellings in _SUBJECT.items()},
            ),
            event_time_ns=record.time_ns or None,
            measurements=_measurements(call),
            provider_call=call,
            reservation_id=_text(record, _RESERVATION),
        )
    except _Unusable as unusable:
        return unusable.refusal


def _is_call(record: CallRecord) -> bool:
    attributes = record.attributes
    operation = attributes.get(_OPERATION)
    if operation in _NO_CALLS:
        return False
    has_usage = any(name in attributes for name in (*_INPUT, *_OUTPUT))
    if record.is_log:
        # Most log records about a call hold one of its messages each; only the one with the usage stands for the call.
        return has_usage
    return has_usage or operation in _CALLS or any(name in attributes for name in _MODEL)


def _identity(record: CallRecord) -> str:
    if len(record.trace_id) != 16 or len(record.span_id) != 8 or not any(record.trace_id) or not any(record.span_id):  # noqa: PLR2004 - OTLP's lengths
        raise _Unusable("INVALID_FIELD", "trace_id, span_id: both are required, and not all zero")
    return f"{record.trace_id.hex()}:{record.span_id.hex()}"


def _call(record: CallRecord) -> ProviderCall:
    named = _text(record, *_PROVIDER).lower()
    if not named:
        raise _Unusable("INVALID_FIELD", "gen_ai.provider.name: required")
    provider = _PROVIDERS.get(named, named)
    counting = _COUNTING.get(provider, Counting())
    if record.scope in _SCOPES_WITHIN:
        counting = Counting(reasoning=counting.reasoning)
    uncached, (cache_read, cache_write) = _disjoint(
        "input",
        _count(record, *_INPUT),
        [_part(record, _CACHE_READ), _part(record, _CACHE_WRITE)],
        ours=counting.cache,
        providers=_COUNTING.get(provider, Counting()).cache,
    )
    output, (reasoning,) = _disjoint(
        "output",
        _count(record, *_OUTPUT),
        [_part(record, _REASONING)],
        ours=counting.reasoning,
        providers=counting.reasoning,
    )
    error = _text(record, _ERROR_TYPE)
    return ProviderCall(
        provider=provider,
        model=_text(record, *_MODEL),
        operation=_text(record, _OPERATION),
        tokens_input_uncached=uncached,
        tokens_cache_read=cache_read,
        tokens_cache_write=cache_write,
        tokens_output=output,
        tokens_reasoning=reasoning,
        latency_ns=record.latency_ns,
        outcome=_outcome(error, is_error=record.is_error),
        # An error's class may be long; losing its end is better than losing the usage.
        error_code=error.encode()[: limits.NAME_BYTES_MAX].decode(errors="ignore"),
    )


def _measurements(call: ProviderCall) -> tuple[Measurement, ...]:
    """The call on the suite's own meters, one for each of its disjoint token classes: quotas and prices stand on
    measurements. What is 0 is left out.
    """
    quantities = {
        "api_calls": 1,
        "tokens_cache_read": call.tokens_cache_read,
        "tokens_cache_write": call.tokens_cache_write,
        "tokens_input": call.tokens_input_uncached,
        "tokens_output": call.tokens_output,
        "tokens_reasoning": call.tokens_reasoning,
    }
    return tuple(Measurement(meter, quantity) for meter, quantity in quantities.items() if quantity)


def _outcome(error: str, *, is_error: bool) -> CallOutcome:
    if error in _CANCELLATIONS:
        return CallOutcome.CANCELLED
    return CallOutcome.FAILURE if error or is_error else CallOutcome.SUCCESS


def _disjoint(
    what: str, whole: int, parts: list[tuple[int, Share | None]], *, ours: Share, providers: Share
) -> tuple[int, list[int]]:
    """What remains of the whole, and the parts."""
    counts = [count for count, _ in parts]
    within = sum(count for count, share in parts if (share or ours) is Share.WITHIN)
    if within <= whole:
        return whole - within, counts
    # Parts larger than their whole cannot be within it: the sender passed on what an API that counts them apart said.
    if providers is Share.APART:
        return whole, counts
    message = f"gen_ai.usage.{what}_tokens: {whole} cannot include {within} cached or reasoning tokens"
    raise _Unusable("INVALID_QUANTITY", message)


def _part(record: CallRecord, spellings: Mapping[str, Share | None]) -> tuple[int, Share | None]:
    for name, share in spellings.items():
        if name in record.attributes:
            return _count(record, name), share
    return 0, None


def _count(record: CallRecord, *names: str) -> int:
    for name in names:
        value = record.attributes.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limits.QUANTITY_MAX:
            raise _Unusable("INVALID_QUANTITY", f"{name}: not an integer in 0 to 2^53 - 1")
        return value
    return 0


def _text(record: CallRecord, *names: str) -> str:
    for name in names:
        value = record.attributes.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise _Unusable("INVALID_FIELD", f"{name}: not text")
        return value
    return ""
