"""What runs have left behind, read back: the report, the trace, ``gpupool top`` stand on this.

>>> from snakemake_executor_gpupool.records.runs.files import find_run      # doctest: +SKIP
>>> from snakemake_executor_gpupool.records.runs.reader import read_run     # doctest: +SKIP
>>> run = read_run(find_run())                                              # doctest: +SKIP
>>> [job.title for job in run.jobs.values() if job.state is JobState.FAILED]  # doctest: +SKIP

``values`` and ``states`` hold the plain types, ``reader`` makes them from the lines of
``events.jsonl`` (all at once, or as they come), ``files`` finds runs, ``costs`` sums up where
device time went.
"""
