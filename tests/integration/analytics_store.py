"""An empty analytics schema: its prices are everybody's, so tests cannot keep apart by organization."""

EMPTY_ANALYTICS = """
    TRUNCATE analytics.prices, analytics.baselines, analytics.price_requests, analytics.call_costs,
        analytics.cost_positions;
    UPDATE analytics.price_head SET version = 0;
"""
