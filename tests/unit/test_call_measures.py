"""What a scrape shows of calls."""

from __future__ import annotations

from prometheus_client import generate_latest

from kit.telemetry.metrics import measures_of


def test_a_scrape_shows_calls_by_method_and_code_with_cumulative_times() -> None:
    measures = measures_of("/tests.v1.Measured/Call")
    measures.note(0.0005)
    measures.note(0.003)
    measures.note(60.0, "UNAVAILABLE")

    shown = generate_latest().decode()

    method = 'method="/tests.v1.Measured/Call"'
    assert f'tollbook_rpc_seconds_bucket{{le="0.0005",{method}}} 1.0' in shown
    assert f'tollbook_rpc_seconds_bucket{{le="0.0025",{method}}} 1.0' in shown
    assert f'tollbook_rpc_seconds_bucket{{le="10.0",{method}}} 2.0' in shown
    assert f'tollbook_rpc_seconds_bucket{{le="+Inf",{method}}} 3.0' in shown
    assert f"tollbook_rpc_seconds_count{{{method}}} 3.0" in shown
    assert f"tollbook_rpc_seconds_sum{{{method}}} 60.0035" in shown
    assert f'tollbook_rpc_total{{code="OK",{method}}} 2.0' in shown
    assert f'tollbook_rpc_total{{code="UNAVAILABLE",{method}}} 1.0' in shown
