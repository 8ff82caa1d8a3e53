"""Inference alone: ``warm_call.py WARM FASTA MODEL`` prints the seconds of one call.

The model is loaded, and warmed up on other files, before the clock starts.
"""

import sys
import time
from pathlib import Path

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.tools.fasta import read_fasta
from snakemake_executor_gpupool.tools.functions import esm2_embed

warm, fasta, model = sys.argv[1:]


def records_of(directory: str) -> list:
    """Return all records of a directory's files."""
    return [each for path in sorted(Path(directory).glob("*.fasta")) for each in read_fasta(path)]


with ToolPool():
    esm2_embed(records_of(warm), model=model)
    records = records_of(fasta)
    start_s = time.perf_counter()
    esm2_embed(records, model=model)
    print(time.perf_counter() - start_s)
