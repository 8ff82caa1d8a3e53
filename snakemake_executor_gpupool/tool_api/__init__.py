"""What the author of a tool sees: values, the base class, how a tool is named.

Standard library only, Python >= 3.9.
"""
