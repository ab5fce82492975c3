"""What Stripe's events lead to: a module a family, and the table of all types."""
