"""Where prices and costs are kept, and whom analytics asks."""
