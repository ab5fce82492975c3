"""Stripe, behind the ports: the client and its manners, what its objects mean, and one module per noun."""
