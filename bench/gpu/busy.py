"""What share of the time between the first and the last micro-batch the card computes.

Twice: by the seconds that the worker says it computed, and by NVML's utilisation, sampled.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path

import workload
from gpu.models import SHAPES, write_checkpoint

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.tools.fasta import Record

AT_LEAST = 0.95
SAMPLE_S = 0.1


class Sampler:
    """Reads the first card's utilisation every ``SAMPLE_S`` on a thread of its own."""

    def __init__(self) -> None:
        self.samples: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        except Exception as error:
            print(f"no NVML: {error}")
            return
        while not self._over.wait(SAMPLE_S):
            self.samples.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)

    def close(self) -> list[int]:
        """Return the samples between the first and the last that are not zero."""
        self._over.set()
        self._thread.join()
        at_work = [n for n, sample in enumerate(self.samples) if sample]
        return self.samples[at_work[0] : at_work[-1] + 1] if at_work else []


def computed_share(events: Path) -> tuple[float, int]:
    """Return the share of time in micro-batches from the first to the last, and how many."""
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    sent = [line["time_s"] for line in lines if line["event"] == "batch_sent"]
    done = [line for line in lines if line["event"] == "batch_done"]
    sent, done = sent[1:], done[1:]  # the first one was to warm up
    span_s = done[-1]["time_s"] - sent[0]
    return sum(line["seconds"] for line in done) / span_s, len(done)


def main() -> int:
    """Embed many sequences through a pool; return 0 if the card was busy enough."""
    options = parse_arguments()
    params = {"model": write_checkpoint(options.shape), "precision": options.precision}
    distinct = sorted({text for file in workload.generate(options.files) for _, text in file})
    records = [Record(f"p{number}", text) for number, text in enumerate(distinct)]
    devices = "cpu:1" if options.device == "cpu" else [0]
    with ToolPool(devices=devices) as pool:
        pool.run("esm2-embed", [Record("warm", "MKT" * 40)], params)
        sampler = Sampler()
        pool.run("esm2-embed", records, params)
        samples = sampler.close()
        share, batches = computed_share(pool._at_work().paths.events)
    used = sum(samples) / len(samples) / 100 if samples else None
    figures = {"computed_share": round(share, 4), "nvml_share": used, "batches": batches}
    print(json.dumps(figures))
    return 0 if options.device == "cpu" else int(share < AT_LEAST)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="650M")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--files", type=int, default=2000, help="of the workload (default: 2000)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
