"""Does a tool keep the contract of :class:`snakemake_executor_gpupool.Tool`? Tried on sample input.

``trial`` runs the tool, ``probes`` ask one question each, ``compare`` says whether two results
are the same, ``plan`` says what the pool would do with the input.
"""
