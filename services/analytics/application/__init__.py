"""What analytics can be asked to do."""
