"""The interface for authors of tools: values, the base class, names of tools.

Standard library only, Python >= 3.9.
"""
