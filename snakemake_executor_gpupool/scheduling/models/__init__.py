"""Models, their workers, and what these compute."""
