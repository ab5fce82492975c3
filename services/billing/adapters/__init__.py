"""Where the books are kept, and the peers and Stripe as billing speaks with them."""
