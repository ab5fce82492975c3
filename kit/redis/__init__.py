"""Redis: the client, and Lua scripts that live in files of their own."""
