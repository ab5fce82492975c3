"""Counters, reservations and entitlements in Redis.

Everything of an organization is in one hash slot, so one Lua script sees and changes all of it atomically. The scripts
are in scripts/, their keys in keys.py, and calls.py says how they go to Redis. There is a module for each kind of port,
and store.py puts them together.
"""
