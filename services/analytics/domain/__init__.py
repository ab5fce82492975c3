"""Values and rules of prices, costs and days: pure, synchronous, without I/O."""
