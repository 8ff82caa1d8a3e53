"""Who asks: each turns its own world into requests, and reports back into it."""
