"""Short requests merged into one run through several models."""
