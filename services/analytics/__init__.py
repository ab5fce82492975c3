"""Analytics: prices of model providers, cost and savings."""
