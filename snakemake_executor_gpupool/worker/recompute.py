"""Does one job again, cold and alone, and compares what comes out with what is there.

In a process of its own, under the Python of the tool. The question is a JSON file, and the answer
is written beside it. Standard library only, Python >= 3.9, until the tool's own code runs.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any

from snakemake_executor_gpupool.tool_api.tolerance import Tolerance
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.worker import numerics
from snakemake_executor_gpupool.worker.cold import pick_device, run_cold
from snakemake_executor_gpupool.worker.describe import versions
from snakemake_executor_gpupool.worker.differences import difference
from snakemake_executor_gpupool.worker.file_hashes import hash_of
from snakemake_executor_gpupool.worker.loaded import for_files
from snakemake_executor_gpupool.worker.origin import origin_of

ANSWER = "answer.json"


def main(question: str) -> None:
    """Answer the question in a file, and end this process."""
    with open(question, encoding="utf-8") as file:
        asked = json.load(file)
    try:
        answer = answered(asked)
    except BaseException as error:  # a tool's module may even call sys.exit
        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {error}"}
    place = os.path.join(os.path.dirname(question), ANSWER)
    with open(f"{place}.part", "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os.replace(f"{place}.part", place)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a library's own teardown may take seconds


def answered(asked: dict[str, Any]) -> dict[str, Any]:
    """Do the job, and compare its outputs.

    Parameters
    ----------
    asked
        ``spec``; ``directory``, where paths start; ``device`` or null; ``reproducible``; ``job``,
        the fields of a job; ``outputs``, for each output where the new one goes; ``touched``,
        the numbers of those that are not written; ``tolerance``, two numbers or null.
    """
    if asked["reproducible"]:
        numerics.prepare()
    os.chdir(asked["directory"])
    started_s = time.perf_counter()
    tool_class = load_tool_class(asked["spec"], asked["directory"])
    names = {side: asked["job"].pop(f"{side}_names") for side in ("input", "output")}
    job = Job(**asked["job"])
    files = {side: Named(getattr(job, side), names[side]) for side in names}
    job = job.replace(**files)
    there, new = list(job.output), asked["outputs"]
    reader = for_files(tool_class, job.params)
    tolerance = reader.result_tolerance()
    if asked["tolerance"] is not None:
        tolerance = Tolerance(*asked["tolerance"])
    if asked["reproducible"]:
        tolerance = Tolerance()
    device = asked["device"] or pick_device(reader)
    for path in new:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    run_cold(tool_class, job.replace(output=Named(new, job.output._names)), device, is_script=True)
    outputs = [
        difference(path, mine, tolerance)._asdict()
        for number, (path, mine) in enumerate(zip(there, new))
        if number not in asked["touched"]
    ]
    return {
        "origin": origin_of(reader, there),
        "deterministic": bool(tool_class.deterministic),
        "outputs": outputs,
        "hashes": [hash_of(mine) for mine in new],
        "device": device,
        "tolerance": tolerance,
        "versions": versions(),
        "seconds": round(time.perf_counter() - started_s, 3),
    }
