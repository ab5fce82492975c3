"""Values and rules of the ledger: pure, synchronous, without I/O."""
