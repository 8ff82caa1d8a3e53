"""Does a tool keep the contract of :class:`snakemake_executor_gpupool.Tool`? Tests with samples.

``trial`` runs the tool, each of the ``probes`` tests one property, ``compare`` decides whether two
results are the same, ``plan`` says what the pool would do with the input.
"""
