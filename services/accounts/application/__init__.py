"""What accounts can be asked to do."""
