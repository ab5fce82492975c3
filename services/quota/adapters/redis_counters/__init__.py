"""Counters, reservations and entitlements in Redis.

Everything of an organization is in one hash slot, so one Lua script sees and changes all of it atomically. The scripts
are in scripts/, their keys in keys.py; store.py calls them.
"""
