from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.e2e.running_suite import RunningSuite, Tenant, wait_for
from tests.papers import text_of_pdf

_LIMIT_REACHED = "Plan limit reached. Upgrade to continue."
_FREE_LIMIT_MS = 100 * 60_000
_FOLLOWED_SECONDS_MAX = 15.0


@pytest.fixture
def rest(suite: RunningSuite, tenant: Tenant) -> Iterator[httpx.Client]:
    """The gateway, as the new tenant."""
    with suite.rest(tenant.key) as client:
        yield client


def _json(answer: httpx.Response, *, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, f"{answer.request.url}: {answer.status_code} {answer.text}"
    body: dict[str, Any] = answer.json()
    return body


def _reason(body: dict[str, Any]) -> str:
    infos = [detail for detail in body["details"] if detail["@type"].endswith("google.rpc.ErrorInfo")]
    assert len(infos) == 1, body
    reason: str = infos[0]["reason"]
    return reason


def _check(quantity: int) -> dict[str, Any]:
    return {
        "requestId": "e2e-rest-check",
        "consumptions": [{"meter": "agent_minutes", "quantity": str(quantity)}],
        "mode": "CHECK_MODE_RESERVE",
        "reserveDuration": "60s",
    }


def _agent_minutes(rest: httpx.Client) -> dict[str, Any]:
    limits: list[dict[str, Any]] = _json(rest.get("/api/v1/quotas"))["limits"]
    return next(limit for limit in limits if limit["meter"] == "agent_minutes")


def _record_calls(rest: httpx.Client, tenant: Tenant) -> None:
    """Two calls of one provider and one of another, today."""
    now = datetime.now(UTC).isoformat()
    calls = [("github_copilot", 1000, 1000), ("github_copilot", 1000, 0), ("openai_codex", 0, 500)]
    events = [
        {
            "id": f"call-{number}",
            "source": "e2e",
            "subject": {"organizationId": tenant.organization_id},
            "eventTime": now,
            "measurements": [{"meter": "api_calls", "quantity": "1"}],
            "providerCall": {
                "provider": provider,
                "operation": "completion",
                "tokensInputUncached": str(tokens_in),
                "tokensOutput": str(tokens_out),
                "outcome": "OUTCOME_SUCCESS",
            },
        }
        for number, (provider, tokens_in, tokens_out) in enumerate(calls)
    ]
    results = _json(rest.post("/api/v1/usage", json={"events": events}))["results"]
    assert [result["status"] for result in results] == ["EVENT_STATUS_ACCEPTED"] * len(calls)


def test_allowed_check_holds_and_answers_200(rest: httpx.Client) -> None:
    body = _json(rest.post("/api/v1/quota:check", json=_check(60_000)))
    assert body["decision"] == "DECISION_ALLOWED"
    assert body["reservationId"] == "e2e-rest-check"
    assert int(_agent_minutes(rest)["held"]) == 60_000


def test_denied_check_is_http_429_with_the_promised_message_and_holds_nothing(rest: httpx.Client) -> None:
    answer = rest.post("/api/v1/quota:check", json=_check(_FREE_LIMIT_MS + 1))
    body = _json(answer, status=429)
    assert body["decision"] == "DECISION_DENIED"
    assert body["denyReason"] == "DENY_REASON_LIMIT_REACHED"
    assert body["message"] == _LIMIT_REACHED
    assert body["limits"][0]["meter"] == "agent_minutes"
    assert int(body["limits"][0]["hardLimit"]) == _FREE_LIMIT_MS
    assert not body.get("reservationId")
    state = _agent_minutes(rest)
    assert (int(state.get("used", 0)), int(state.get("held", 0))) == (0, 0)


def test_a_reservation_is_extended_committed_and_released_and_a_denied_extension_is_429(
    rest: httpx.Client,
) -> None:
    _json(rest.post("/api/v1/quota:check", json=_check(60_000)))
    path = "/api/v1/reservations/e2e-rest-check"
    more = {"consumptions": [{"meter": "agent_minutes", "quantity": "90000"}], "reserveDuration": "60s"}
    extended = _json(rest.post(f"{path}:extend", json=more))
    assert (extended["check"]["decision"], extended["restored"]) == ("DECISION_ALLOWED", False)
    assert int(_agent_minutes(rest)["held"]) == 90_000
    too_much = {"consumptions": [{"meter": "agent_minutes", "quantity": str(_FREE_LIMIT_MS + 1)}]}
    denied = rest.post(f"{path}:extend", json=too_much)
    assert _json(denied, status=429)["check"]["message"] == _LIMIT_REACHED
    assert int(denied.headers["retry-after"]) > 0
    actuals = {"actuals": [{"meter": "agent_minutes", "quantity": "30000"}]}
    committed = _json(rest.post(f"{path}:commit", json=actuals))
    assert [int(each["quantity"]) for each in committed["held"]] == [30_000]
    assert _reason(_json(rest.post(f"{path}:extend", json=more), status=400)) == "INVALID_STATE"
    assert _json(rest.post(f"{path}:release", json={}))["freed"] is True
    assert int(_agent_minutes(rest).get("held", 0)) == 0
    assert _reason(_json(rest.post("/api/v1/reservations/unknown:release", json={}), status=404)) == "NOT_FOUND"


def test_denied_check_that_fits_into_the_next_period_says_when_that_begins(rest: httpx.Client) -> None:
    event = {
        "id": "nearly-all",
        "source": "e2e",
        "eventTime": datetime.now(UTC).isoformat(),
        "measurements": [{"meter": "agent_minutes", "quantity": str(_FREE_LIMIT_MS - 1)}],
    }
    _json(rest.post("/api/v1/usage", json={"events": [event]}))
    wait_for(
        lambda: int(_agent_minutes(rest)["used"]) == _FREE_LIMIT_MS - 1,
        seconds=_FOLLOWED_SECONDS_MAX,
        what="the recorded usage on the counter",
    )
    answer = rest.post("/api/v1/quota:check", json=_check(2))
    assert answer.status_code == 429, answer.text
    assert 0 < int(answer.headers["retry-after"]) <= 31 * 86_400


def test_denied_check_that_never_fits_names_the_reset_in_the_header_only(rest: httpx.Client) -> None:
    answer = rest.post("/api/v1/quota:check", json=_check(_FREE_LIMIT_MS + 1))
    assert answer.status_code == 429, answer.text
    assert 0 < int(answer.headers["retry-after"]) <= 31 * 86_400
    assert answer.json()["retryAfter"] is None


def test_recorded_events_are_listed_page_by_page(rest: httpx.Client) -> None:
    now = datetime.now(UTC)
    events = [
        {
            "id": f"listed-{number}",
            "source": "e2e",
            "eventTime": (now - timedelta(seconds=number)).isoformat(),
            "measurements": [{"meter": "api_calls", "quantity": "1"}],
            "labels": {"environment": "test"},
            "taskOutcome": "TASK_OUTCOME_SUCCEEDED",
        }
        for number in range(5)
    ]
    _json(rest.post("/api/v1/usage", json={"events": events}))
    interval = {"startTime": (now - timedelta(seconds=3)).isoformat(), "endTime": now.isoformat()}
    listed, token = list[dict[str, Any]](), ""
    for expected_count in (2, 1):
        page = {"pageSize": "2", "pageToken": token}
        body = _json(rest.get("/api/v1/usage/events", params=interval | page))
        assert len(body["events"]) == expected_count
        listed, token = listed + body["events"], body.get("nextPageToken", "")
    assert token == ""
    assert [each["event"]["id"] for each in listed] == ["listed-1", "listed-2", "listed-3"]
    assert [each["sequence"] for each in listed] == ["2", "3", "4"]
    assert listed[0]["event"]["labels"] == {"environment": "test"}
    assert listed[0]["event"]["taskOutcome"] == "TASK_OUTCOME_SUCCEEDED"
    assert _reason(_json(rest.get("/api/v1/usage/events", params={"pageSize": "1001"}), status=400)) == "LIMIT_EXCEEDED"


def test_a_reversal_takes_usage_back_from_totals_quota_and_costs(rest: httpx.Client, tenant: Tenant) -> None:
    _record_calls(rest, tenant)
    minutes = {
        "id": "minutes",
        "source": "e2e",
        "eventTime": datetime.now(UTC).isoformat(),
        "measurements": [{"meter": "agent_minutes", "quantity": "60000"}],
    }
    _json(rest.post("/api/v1/usage", json={"events": [minutes]}))
    wait_for(
        lambda: int(_agent_minutes(rest)["used"]) == 60_000,
        seconds=_FOLLOWED_SECONDS_MAX,
        what="the recorded usage on the counter",
    )
    targets = ["minutes", "call-0", "call-1", "call-2"]
    reversals = [
        {"id": f"not-{name}", "source": "e2e", "reversalOf": {"source": "e2e", "id": name}} for name in targets
    ]
    results = _json(rest.post("/api/v1/usage", json={"events": reversals}))["results"]
    assert [result["status"] for result in results] == ["EVENT_STATUS_ACCEPTED"] * len(targets)
    again = _json(rest.post("/api/v1/usage", json={"events": [reversals[0] | {"id": "once more"}]}))["results"]
    assert again[0]["reason"] == "ERROR_REASON_ALREADY_REVERSED"

    assert {int(row.get("quantity", 0)) for row in _json(rest.get("/api/v1/usage")).get("rows", [])} <= {0}
    wait_for(
        lambda: int(_agent_minutes(rest).get("used", 0)) == 0,
        seconds=_FOLLOWED_SECONDS_MAX,
        what="the reversal on the counter",
    )
    today = datetime.now(UTC).date()
    days = {"startDate": (today - timedelta(days=1)).isoformat(), "endDate": (today + timedelta(days=1)).isoformat()}
    wait_for(
        lambda: not _json(rest.get("/api/v1/analytics/cost-summary", params=days))["breakdown"],
        seconds=_FOLLOWED_SECONDS_MAX,
        what="the reversal in the costs",
    )


def test_cost_summary_has_the_shape_the_dashboard_was_promised(rest: httpx.Client, tenant: Tenant) -> None:
    _record_calls(rest, tenant)
    path = "/api/v1/analytics/cost-summary"
    today = datetime.now(UTC).date()
    days = {"startDate": (today - timedelta(days=1)).isoformat(), "endDate": (today + timedelta(days=1)).isoformat()}

    def calls() -> int:
        breakdown = _json(rest.get(path, params=days))["breakdown"]
        return sum(int(provider["calls"]) for provider in breakdown)

    wait_for(lambda: calls() == 3, seconds=_FOLLOWED_SECONDS_MAX, what="three calls in the cost summary")
    body = _json(rest.get(path, params=days))
    assert (body["actualCost"], body["baselineCost"]) == ("0.007", "0.01")
    assert (body["savings"], body["savingsPercent"]) == ("0.003", "30.00")
    assert [(provider["provider"], provider["cost"], int(provider["calls"])) for provider in body["breakdown"]] == [
        ("github_copilot", "0.005", 2),
        ("openai_codex", "0.002", 1),
    ]


def test_cost_summary_answers_under_both_paths_and_both_spellings(rest: httpx.Client, tenant: Tenant) -> None:
    _record_calls(rest, tenant)
    today = datetime.now(UTC).date().isoformat()
    camel, snake = {"startDate": today, "endDate": today}, {"start_date": today, "end_date": today}
    wait_for(
        lambda: len(_json(rest.get("/api/v1/analytics/cost-summary", params=camel))["breakdown"]) == 2,
        seconds=_FOLLOWED_SECONDS_MAX,
        what="two providers in the cost summary",
    )
    answers = [
        _json(rest.get(path, params=days))
        for path in ("/api/v1/analytics/cost-summary", "/api/analytics/cost-summary")
        for days in (camel, snake)
    ]
    assert answers == [answers[0]] * 4


def test_cost_summary_of_a_day_before_the_calls_is_zero(rest: httpx.Client) -> None:
    days = {"start_date": "2020-01-01", "end_date": "2020-01-02"}
    body = _json(rest.get("/api/analytics/cost-summary", params=days))
    assert (body["actualCost"], body["savings"], body["savingsPercent"]) == ("0", "0", "0.00")
    assert body["breakdown"] == []


def test_date_that_is_none_is_an_invalid_argument(rest: httpx.Client) -> None:
    body = _json(rest.get("/api/v1/analytics/cost-summary", params={"startDate": "tomorrow"}), status=400)
    assert _reason(body) == "INVALID_FIELD"
    assert "start_date" in body["message"]


@pytest.mark.parametrize(
    ("key", "status", "reason"),
    [(None, 401, "CREDENTIAL_MISSING"), ("tb_live_" + "x" * 43, 401, "CREDENTIAL_INVALID")],
    ids=["missing", "wrong"],
)
def test_missing_or_wrong_key_is_401(suite: RunningSuite, key: str | None, status: int, reason: str) -> None:
    with suite.rest(key) as client:
        assert _reason(_json(client.get("/api/v1/quotas"), status=status)) == reason


def test_another_tenants_id_is_403(suite: RunningSuite, rest: httpx.Client) -> None:
    other = suite.new_tenant()
    body = _json(rest.get("/api/v1/usage", params={"organizationId": other.organization_id}), status=403)
    assert _reason(body) == "ORGANIZATION_MISMATCH"


def test_quantity_that_is_no_number_is_400(rest: httpx.Client) -> None:
    request = {"consumptions": [{"meter": "agent_minutes", "quantity": "many"}]}
    body = _json(rest.post("/api/v1/quota:check", json=request), status=400)
    assert _reason(body) == "INVALID_FIELD"


def test_usage_recorded_over_rest_is_what_usage_answers(rest: httpx.Client, tenant: Tenant) -> None:
    _record_calls(rest, tenant)
    body = _json(rest.get("/api/v1/usage"))
    assert [(row["meter"], int(row["quantity"])) for row in body["rows"] if row["meter"] == "api_calls"] == [
        ("api_calls", 3)
    ]


def test_plans_are_listed_cheapest_first(rest: httpx.Client) -> None:
    plans = _json(rest.get("/api/v1/plans"))["plans"]
    assert [(plan["planId"], plan["monthlyPrice"]) for plan in plans] == [
        ("free", "0.00"),
        ("starter", "49.00"),
        ("pro", "149.00"),
        ("enterprise", "499.00"),
    ]


def test_a_subscription_lives_over_rest_and_tells_its_usage_and_entitlements(
    suite: RunningSuite, rest: httpx.Client, tenant: Tenant
) -> None:
    wanted = {"organizationId": tenant.organization_id, "planId": "starter"}
    with suite.rest(suite.admin_key) as operator:
        _json(operator.post("/api/v1/subscriptions", json={"requestId": "sell", "subscription": wanted}))
    changed = _json(rest.post("/api/v1/subscription:changePlan", json={"requestId": "up", "planId": "pro"}))
    assert [phase["planId"] for phase in changed["subscription"]["phases"]] == ["starter", "pro"]
    entitled = _json(rest.get("/api/v1/entitlements"))
    assert (entitled["planId"], entitled["isAllowed"]) == ("pro", True)
    (period,) = _json(rest.get("/api/v1/subscription/usage"))["periods"]
    assert (period["planId"], period["currencyCode"], period["cost"]) == ("pro", "USD", "0.00")
    canceled = _json(rest.post("/api/v1/subscription:cancel", json={"requestId": "cancel"}))["subscription"]
    assert canceled["cancelTime"] == canceled["periodEndTime"]
    resumed = _json(rest.post("/api/v1/subscription:resume", json={"requestId": "resume"}))["subscription"]
    assert resumed["status"] == "SUBSCRIPTION_STATUS_ACTIVE"
    assert "cancelTime" not in resumed or resumed["cancelTime"] is None
    pause = {"requestId": "pause", "organizationId": tenant.organization_id}
    refused = _json(rest.post("/api/v1/subscription:pause", json=pause), status=403)
    assert _reason(refused) == "SCOPE_MISSING"


@pytest.mark.parametrize("signature", [None, "nonsense", "forged"])
def test_webhook_with_a_bad_signature_is_refused(suite: RunningSuite, signature: str | None) -> None:
    payload = json.dumps({"id": "evt_e2e", "object": "event", "type": "invoice.paid"}).encode()
    headers = {"content-type": "application/json"}
    if signature == "forged":
        now = int(time.time())
        mac = hmac.new(b"whsec_not_ours", f"{now}.".encode() + payload, hashlib.sha256).hexdigest()
        headers["stripe-signature"] = f"t={now},v1={mac}"
    elif signature is not None:
        headers["stripe-signature"] = signature
    with suite.rest(None) as client:
        body = _json(client.post("/api/webhooks/stripe", content=payload, headers=headers), status=400)
    assert _reason(body) == "SIGNATURE_INVALID"


def test_the_next_invoice_can_be_looked_at_on_paper(rest: httpx.Client) -> None:
    answer = rest.get("/api/v1/invoices/preview/pdf")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pdf")
    assert "DRAFT" in text_of_pdf(answer.content)
    assert _reason(_json(rest.get("/api/v1/invoices/inv_unknown/pdf"), status=404)) == "NOT_FOUND"


def test_openapi_describes_the_rest_interface_without_a_key(suite: RunningSuite) -> None:
    with suite.rest(None) as client:
        document = _json(client.get("/openapi.json"))
    assert {
        "/api/v1/quota:check",
        "/api/v1/quotas",
        "/api/v1/usage",
        "/api/v1/plans",
        "/api/v1/invoices",
        "/api/v1/analytics/cost-summary",
        "/api/analytics/cost-summary",
    } <= set(document["paths"])


def test_path_that_is_not_there_is_404(rest: httpx.Client) -> None:
    assert _reason(_json(rest.get("/api/v1/nothing"), status=404)) == "NOT_FOUND"


def test_answer_carries_the_callers_request_id(rest: httpx.Client) -> None:
    answer = rest.get("/api/v1/quotas", headers={"x-request-id": "e2e-request-7"})
    assert answer.headers["x-request-id"] == "e2e-request-7"
