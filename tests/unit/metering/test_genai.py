"""From OpenTelemetry's attributes of a model call to a usage event."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metering.domain import genai
from services.metering.domain.events import CallOutcome, Measurement, ProviderCall, Subject, UsageEvent
from services.metering.domain.genai import ATTRIBUTES, AttributeValue, CallRecord, usage_event
from services.metering.domain.refusals import Refusal
from services.metering.domain.validation import validate

TRACE_ID, SPAN_ID = bytes(range(1, 17)), bytes(range(1, 9))


def record(*, is_log: bool = False, scope: str = "", **fields: Any) -> CallRecord:
    attributes: dict[str, AttributeValue] = fields.pop("attributes", {})
    known: dict[str, Any] = {
        "trace_id": TRACE_ID,
        "span_id": SPAN_ID,
        "time_ns": 1_000,
        "latency_ns": 7,
        "is_error": False,
    }
    return CallRecord(attributes=attributes, scope=scope, is_log=is_log, **(known | fields))


def mapped(attributes: dict[str, AttributeValue], **fields: Any) -> UsageEvent | Refusal | None:
    assert set(attributes) <= ATTRIBUTES
    return usage_event(record(attributes=attributes, **fields), "acme")


def call(attributes: dict[str, AttributeValue], **fields: Any) -> ProviderCall:
    event = mapped(attributes, **fields)
    assert isinstance(event, UsageEvent), event
    assert event.provider_call is not None
    return event.provider_call


def tokens(provider: str, usage: dict[str, int], *, scope: str = "") -> tuple[int, int, int, int, int]:
    """Uncached input, cache read, cache write, output without reasoning, reasoning."""
    named: dict[str, AttributeValue] = {f"gen_ai.usage.{name}": count for name, count in usage.items()}
    made = call({"gen_ai.provider.name": provider, "gen_ai.operation.name": "chat", **named}, scope=scope)
    return (
        made.tokens_input_uncached,
        made.tokens_cache_read,
        made.tokens_cache_write,
        made.tokens_output,
        made.tokens_reasoning,
    )


CHAT: dict[str, AttributeValue] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.response.model": "gpt-4o-2024-08-06",
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.output_tokens": 180,
}


def test_a_span_becomes_one_event_with_a_provider_call_that_is_also_measured() -> None:
    event = mapped(
        CHAT
        | {
            "gen_ai.agent.id": "asst_1",
            "gen_ai.conversation.id": "conv_5j66",
            "session.id": "browser",
            "enduser.pseudo.id": "u7",
            "tollbook.project_id": "p1",
            "tollbook.team_id": "team",
            "tollbook.task_id": "t9",
            "tollbook.reservation_id": "r1",
        }
    )
    assert event == UsageEvent(
        id="0102030405060708090a0b0c0d0e0f10:0102030405060708",
        source="otlp",
        subject=Subject(
            organization_id="acme",
            project_id="p1",
            team_id="team",
            user_id="u7",
            agent_id="asst_1",
            task_id="t9",
            session_id="conv_5j66",
        ),
        event_time_ns=1_000,
        measurements=(
            Measurement("api_calls", 1),
            Measurement("tokens_input", 100),
            Measurement("tokens_output", 180),
        ),
        provider_call=ProviderCall(
            provider="openai",
            model="gpt-4o-2024-08-06",
            operation="chat",
            tokens_input_uncached=100,
            tokens_cache_read=0,
            tokens_cache_write=0,
            tokens_output=180,
            tokens_reasoning=0,
            latency_ns=7,
            outcome=CallOutcome.SUCCESS,
            error_code="",
        ),
        reservation_id="r1",
    )
    assert validate(event, {"api_calls", "tokens_input", "tokens_output"}) is None


def test_each_token_class_is_measured_on_the_meter_of_its_name_and_zeros_are_left_out() -> None:
    event = mapped(
        CHAT
        | {
            "gen_ai.usage.cache_read.input_tokens": 60,
            "gen_ai.usage.cache_creation.input_tokens": 40,
            "gen_ai.usage.reasoning.output_tokens": 30,
        }
    )
    assert isinstance(event, UsageEvent)
    assert event.measurements == (
        Measurement("api_calls", 1),
        Measurement("tokens_cache_read", 60),
        Measurement("tokens_cache_write", 40),
        Measurement("tokens_output", 150),
        Measurement("tokens_reasoning", 30),
    )


@pytest.mark.parametrize(
    ("provider", "usage", "expected"),
    [
        # OpenAI's prompt caching guide: 2 006 prompt tokens of which 1 920 were cached, 300 completion tokens.
        (
            "openai",
            {"input_tokens": 2006, "output_tokens": 300, "cache_read.input_tokens": 1920},
            (86, 1920, 0, 300, 0),
        ),
        ("openai", {"prompt_tokens": 2006, "completion_tokens": 300}, (2006, 0, 0, 300, 0)),
        # The same guide, cache writes: 2 600 input tokens, 2 000 read from the cache, 400 written to it.
        (
            "openai",
            {"input_tokens": 2600, "cache_read.input_tokens": 2000, "cache_write.input_tokens": 400},
            (200, 2000, 400, 0, 0),
        ),
        # OpenAI's reasoning guide: 1 186 output tokens of which 1 024 were reasoning.
        (
            "openai",
            {"input_tokens": 75, "output_tokens": 1186, "reasoning.output_tokens": 1024},
            (75, 0, 0, 162, 1024),
        ),
        ("azure.ai.openai", {"completion_tokens": 1186, "reasoning_tokens": 1024}, (0, 0, 0, 162, 1024)),
        # Anthropic, as its API says: 3 tokens besides 5 758 read and 6 174 written.
        (
            "anthropic",
            {"input_tokens": 3, "cache_read_input_tokens": 5758, "cache_creation_input_tokens": 6174},
            (3, 5758, 6174, 0, 0),
        ),
        # The same where no contradiction gives it away: 1 000 tokens besides 100.
        ("anthropic", {"input_tokens": 1000, "cache_read_input_tokens": 100}, (1000, 100, 0, 0, 0)),
        # The same as the conventions ask for it: everything within input_tokens.
        (
            "anthropic",
            {"input_tokens": 11935, "cache_read.input_tokens": 5758, "cache_creation.input_tokens": 6174},
            (3, 5758, 6174, 0, 0),
        ),
        # An instrumentation that uses the conventions' names for the API's numbers: cannot be within, so it is not.
        (
            "anthropic",
            {"input_tokens": 3, "cache_read.input_tokens": 5758, "cache_creation.input_tokens": 6174},
            (3, 5758, 6174, 0, 0),
        ),
        ("aws.bedrock", {"input_tokens": 10, "cache_read_input_tokens": 1500}, (10, 1500, 0, 0, 0)),
        # Gemini: prompt 20, candidates 151, thoughts 382, together 553.
        (
            "gcp.gemini",
            {"input_tokens": 20, "output_tokens": 151, "reasoning_tokens": 382},
            (20, 0, 0, 151, 382),
        ),
        (
            "gcp.gemini",
            {"input_tokens": 20, "output_tokens": 533, "reasoning.output_tokens": 382},
            (20, 0, 0, 151, 382),
        ),
        ("gcp.vertex_ai", {"input_tokens": 500, "cache_read_input_tokens": 400}, (100, 400, 0, 0, 0)),
        # xAI: prompt 12, completion 1, reasoning 386, together 399.
        ("x_ai", {"prompt_tokens": 12, "completion_tokens": 1, "reasoning_tokens": 386}, (12, 0, 0, 1, 386)),
        ("deepseek", {"prompt_tokens": 100, "cache_read_input_tokens": 64}, (36, 64, 0, 0, 0)),
        ("some_new_provider", {"input_tokens": 100, "input_tokens.cached": 40}, (60, 40, 0, 0, 0)),
        ("openai", {"output_tokens": 100, "output_tokens.reasoning": 30}, (0, 0, 0, 70, 30)),
    ],
)
def test_token_classes_are_disjoint_as_each_provider_counts(
    provider: str, usage: dict[str, int], expected: tuple[int, ...]
) -> None:
    assert tokens(provider, usage) == expected


def test_an_instrumentation_that_is_known_to_add_cached_tokens_to_the_input_is_read_so() -> None:
    usage = {"prompt_tokens": 1100, "cache_read_input_tokens": 100}
    assert tokens("anthropic", usage) == (1100, 100, 0, 0, 0)
    assert tokens("Anthropic", usage, scope="opentelemetry.instrumentation.anthropic") == (1000, 100, 0, 0, 0)


@pytest.mark.parametrize(
    ("provider", "usage"),
    [
        ("openai", {"input_tokens": 10, "cache_read.input_tokens": 11}),
        ("openai", {"output_tokens": 10, "reasoning_tokens": 11}),
        ("anthropic", {"output_tokens": 10, "reasoning.output_tokens": 11}),
        ("gcp.gemini", {"input_tokens": 10, "cache_read_input_tokens": 11}),
    ],
)
def test_a_part_that_is_larger_than_its_whole_is_refused_and_never_negative(
    provider: str, usage: dict[str, int]
) -> None:
    attributes: dict[str, AttributeValue] = {f"gen_ai.usage.{name}": count for name, count in usage.items()}
    refused = mapped(attributes | {"gen_ai.system": provider})
    assert isinstance(refused, Refusal)
    assert refused.reason == "INVALID_QUANTITY"


@pytest.mark.parametrize("count", [-1, 2**53, 1.0, 1.5, float("nan"), True, "100"])
def test_a_token_count_that_is_no_integer_in_range_is_refused(count: AttributeValue) -> None:
    refused = mapped(CHAT | {"gen_ai.usage.input_tokens": count})
    assert isinstance(refused, Refusal)
    assert refused.reason == "INVALID_QUANTITY"


@pytest.mark.parametrize(
    ("said", "provider"),
    [
        ("OpenAI", "openai"),
        ("az.ai.openai", "azure.ai.openai"),
        ("gemini", "gcp.gemini"),
        ("vertex_ai", "gcp.vertex_ai"),
        ("AWS", "aws.bedrock"),
        ("xai", "x_ai"),
        ("my_provider", "my_provider"),
    ],
)
def test_older_names_of_providers_become_todays(said: str, provider: str) -> None:
    attributes: dict[str, AttributeValue] = {"gen_ai.system": said, "gen_ai.usage.prompt_tokens": 1}
    assert call(attributes).provider == provider


def test_the_newer_name_goes_before_the_older_one() -> None:
    assert call(CHAT | {"gen_ai.system": "other"}).provider == "openai"
    assert call(CHAT | {"gen_ai.usage.prompt_tokens": 7}).tokens_input_uncached == 100
    older = {name: value for name, value in CHAT.items() if name != "gen_ai.response.model"}
    assert call(older).model == "gpt-4o"


@pytest.mark.parametrize(
    ("error_type", "is_error", "outcome", "error_code"),
    [
        ("", False, CallOutcome.SUCCESS, ""),
        ("", True, CallOutcome.FAILURE, ""),
        ("timeout", True, CallOutcome.FAILURE, "timeout"),
        ("500", False, CallOutcome.FAILURE, "500"),
        ("asyncio.exceptions.CancelledError", True, CallOutcome.CANCELLED, "asyncio.exceptions.CancelledError"),
        ("é" * 100, True, CallOutcome.FAILURE, "é" * 64),
    ],
)
def test_the_outcome_follows_from_status_and_error_type(
    error_type: str, *, is_error: bool, outcome: CallOutcome, error_code: str
) -> None:
    failed = {"gen_ai.provider.name": "openai", "gen_ai.operation.name": "chat", "error.type": error_type}
    made = call(dict(failed), is_error=is_error)
    assert (made.outcome, made.error_code) == (outcome, error_code)


@pytest.mark.parametrize("operation", ["invoke_agent", "create_agent", "execute_tool", "invoke_workflow", "retrieval"])
def test_spans_around_calls_are_ignored_though_they_carry_the_usage_of_the_calls(operation: str) -> None:
    assert mapped(CHAT | {"gen_ai.operation.name": operation}) is None


def test_a_span_without_a_word_of_a_call_is_ignored() -> None:
    assert mapped({}) is None
    assert mapped({"gen_ai.provider.name": "openai", "session.id": "s"}) is None


def test_of_log_records_only_the_one_with_the_usage_stands_for_the_call() -> None:
    message: dict[str, AttributeValue] = {
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.operation.name": "chat",
    }
    assert mapped(message, is_log=True) is None
    assert isinstance(mapped(CHAT, is_log=True, latency_ns=None), UsageEvent)


def test_a_call_without_a_provider_is_refused() -> None:
    refused = mapped({"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 5})
    assert isinstance(refused, Refusal)
    assert "gen_ai.provider.name" in refused.message


@pytest.mark.parametrize(
    "ids",
    [
        {"trace_id": b""},
        {"span_id": b""},
        {"trace_id": bytes(16)},
        {"span_id": bytes(8)},
        {"trace_id": b"\1" * 15},
        {"span_id": b"\1" * 9},
    ],
)
def test_a_record_without_an_identity_is_refused(ids: dict[str, bytes]) -> None:
    assert isinstance(mapped(CHAT, **ids), Refusal)


def test_a_name_that_is_no_text_is_refused() -> None:
    assert isinstance(mapped(CHAT | {"gen_ai.response.model": 4}), Refusal)


def test_no_attribute_that_can_hold_contents_or_a_persons_name_is_ever_looked_at() -> None:
    contents = {
        "gen_ai.prompt",
        "gen_ai.completion",
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.system_instructions",
        "gen_ai.tool.definitions",
        "gen_ai.tool.call.arguments",
        "gen_ai.tool.call.result",
        "gen_ai.retrieval.query.text",
        "user.id",
        "user.email",
        "user.name",
        "enduser.id",
    }
    assert not contents & ATTRIBUTES
    assert genai.RESOURCE_ATTRIBUTES < ATTRIBUTES


@given(
    attributes=st.dictionaries(
        st.sampled_from(sorted(ATTRIBUTES)),
        st.integers(-5, 2**54) | st.text(max_size=5) | st.floats() | st.booleans(),
    ),
    provider=st.sampled_from(["openai", "anthropic", "gcp.gemini", "x_ai", "aws.bedrock", "other"]),
    is_log=st.booleans(),
)
def test_whatever_the_attributes_no_class_is_negative_and_nothing_is_counted_twice(
    attributes: dict[str, AttributeValue], provider: str, *, is_log: bool
) -> None:
    event = mapped(attributes | {"gen_ai.provider.name": provider}, is_log=is_log)
    if not isinstance(event, UsageEvent):
        return
    made = event.provider_call
    assert made is not None
    measured = {each.meter: each.quantity for each in event.measurements}
    assert list(measured) == sorted(measured)
    assert measured.pop("api_calls") == 1
    assert 0 not in measured.values()
    assert measured.get("tokens_input", 0) == made.tokens_input_uncached
    assert measured.get("tokens_cache_read", 0) == made.tokens_cache_read
    assert measured.get("tokens_cache_write", 0) == made.tokens_cache_write
    assert measured.get("tokens_output", 0) == made.tokens_output
    assert measured.get("tokens_reasoning", 0) == made.tokens_reasoning
    classes = (
        made.tokens_input_uncached,
        made.tokens_cache_read,
        made.tokens_cache_write,
        made.tokens_output,
        made.tokens_reasoning,
    )
    assert all(0 <= count < 2**53 for count in classes)
    # A name that the mapping passes over, for an older spelling of what another one said, may be anything.
    said = [value for name, value in attributes.items() if name.startswith("gen_ai.usage.") and isinstance(value, int)]
    assert sum(classes) <= sum(max(0, value) for value in said)
