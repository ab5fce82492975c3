"""One small module per Stripe resource: its OPERATIONS and nothing that another resource needs to know."""
