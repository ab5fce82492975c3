"""Values and rules of accounts: pure, synchronous, without I/O."""
