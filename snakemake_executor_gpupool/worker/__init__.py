"""The child side: what runs inside worker processes. Standard library only, Python >= 3.9."""
