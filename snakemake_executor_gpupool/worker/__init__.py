"""Code that runs inside worker processes. Standard library only, Python >= 3.9."""
