"""Calls of the Python API: ``api_calls.py block|cold FASTA OUT MODEL CALLS [CALL ...]``.

``block`` makes all calls within one pool, ``cold`` makes those named without any. The files are
dealt out over the calls; every call writes what it computed.
"""

import contextlib
import sys
from pathlib import Path

import numpy as np

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.tools.fasta import read_fasta
from snakemake_executor_gpupool.tools.functions import esm2_embed

how, fasta, out, model, calls, *numbers = sys.argv[1:]
paths = sorted(Path(fasta).glob("*.fasta"))
Path(out).mkdir(exist_ok=True)
with ToolPool() if how == "block" else contextlib.nullcontext():
    for number in map(int, numbers or range(int(calls))):
        mine = paths[number :: int(calls)]
        records = [record for path in mine for record in read_fasta(str(path))]
        results = esm2_embed(records, model=model)
        arrays = {
            record.id: next(iter(r.values())) for record, r in zip(records, results, strict=True)
        }
        np.savez(Path(out, f"call{number}.npz"), **arrays)
