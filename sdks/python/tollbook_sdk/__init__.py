"""Meters AI-agent tasks with Tollbook. See the README for how."""

from tollbook.metering.v1.metering_pb2 import Subject
from tollbook_sdk.buffer import UsageCounts
from tollbook_sdk.client import AsyncTollbook, Tollbook
from tollbook_sdk.decision import Decision, LimitState, OnUnavailable
from tollbook_sdk.errors import (
    BufferFull,
    ClientClosed,
    QuotaDenied,
    QuotaExhausted,
    RequestRefused,
    SuiteUnavailable,
    TollbookError,
    UsedAcrossFork,
)
from tollbook_sdk.lease import Lease
from tollbook_sdk.metered_task import MeteredTask
from tollbook_sdk.model_calls import ANTHROPIC, OPENAI, OPENAI_REASONING_APART, ModelCall, Shape
from tollbook_sdk.settings import LostUsage, Settings
from tollbook_sdk.token_usage import TokenUsage

__all__ = [
    "ANTHROPIC",
    "OPENAI",
    "OPENAI_REASONING_APART",
    "AsyncTollbook",
    "BufferFull",
    "ClientClosed",
    "Decision",
    "Lease",
    "LimitState",
    "LostUsage",
    "MeteredTask",
    "ModelCall",
    "OnUnavailable",
    "QuotaDenied",
    "QuotaExhausted",
    "RequestRefused",
    "Settings",
    "Shape",
    "Subject",
    "SuiteUnavailable",
    "TokenUsage",
    "Tollbook",
    "TollbookError",
    "UsageCounts",
    "UsedAcrossFork",
]
