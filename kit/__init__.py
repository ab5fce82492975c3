"""What every service stands on. It knows no word of what Tollbook meters, bills or limits."""
