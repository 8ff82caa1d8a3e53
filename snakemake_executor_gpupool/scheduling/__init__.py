"""Pure decisions: events and ``now_s`` in, effects out."""
