"""Short requests through a chain of models."""
