"""What the use cases of billing need of the world: a module a noun."""
