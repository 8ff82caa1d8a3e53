"""Where every output came from: one append-only file for all runs of a workflow.

``store`` appends records to the file, ``recorder`` makes them from what happens in a run,
``reader`` finds them again. The format is in ``docs/provenance.md``.
"""
