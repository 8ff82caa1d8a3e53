"""Where processes are: the seam to machines, this machine, and clusters."""
