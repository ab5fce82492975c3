"""A stateful development server that speaks Stripe's API; README.md says what it simulates and what not."""
