"""``gpupool plan``: what a run would do, and how long it would take, before it is started."""
