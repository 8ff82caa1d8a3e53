"""What the author of a tool sees: plain values, the base class, how a tool is named. Standard library only."""
