"""What quota can be asked to do."""
