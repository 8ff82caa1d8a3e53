"""The one loop: events in, effects carried out."""
