"""Accounts: organizations, their API keys, and who a caller is."""
