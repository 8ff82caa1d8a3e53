"""Who holds which device, and who is next: pure decisions, events in and effects out."""
