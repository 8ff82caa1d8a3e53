"""A pool that outlives a run, for other processes of its user: ``gpupool serve``."""
