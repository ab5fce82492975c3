"""What billing can be asked to do."""
