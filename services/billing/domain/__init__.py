"""Values and rules of money: pure, synchronous, without I/O."""
