"""``gpupool verify``: computes outputs again, cold and alone, and compares them with what is there.

``choosing`` finds the jobs, ``again`` has one done in a process of its own, ``command`` says what
came of it.
"""
