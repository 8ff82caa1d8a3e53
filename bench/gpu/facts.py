"""The machine, its card, and what gpupool says of it beside what the driver says."""

from __future__ import annotations

import json
import subprocess

from measure import machine


def driver() -> list[dict[str, str]]:
    """Return what ``nvidia-smi`` says of each card; nothing where there is none."""
    names = ["name", "uuid", "memory.total", "driver_version", "compute_cap"]
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def torch_facts() -> dict[str, str]:
    """Return torch's version and its CUDA's."""
    import torch

    return {"torch": torch.__version__, "CUDA of torch": str(torch.version.cuda)}


def main() -> None:
    """Print one JSON object."""
    command = ["gpupool", "devices", "--json"]
    listed = subprocess.run(command, check=False, capture_output=True, text=True)
    print(listed.stdout, listed.stderr)
    facts = {"machine": machine() | torch_facts(), "driver": driver()}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
