"""Install a torch that fits the machine: ``install_torch.py SPEC [PIP ARGUMENT...]``.

On Linux the default package index offers builds that bring gigabytes of CUDA
libraries. Without a GPU these are good for nothing: then they are refused, with a
word on how to name an index of CPU builds. Where pip is set up to find CPU builds by
itself (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL, pip.conf), nothing needs to be said.
"""

import json
import os
import shutil
import subprocess
import sys

CUDA_ANYWAY = "GPUPOOL_CUDA_TORCH"

ADVICE = """\
This machine shows no NVIDIA GPU, and the torch that pip would install brings {count} packages
of CUDA libraries, several gigabytes. Name an index of CPU builds (PyTorch's install page gives
its address under "CPU") and run make again:

    make demo TORCH_ARGS="--index-url ADDRESS"

or install the CUDA build nevertheless: {anyway}=1 make demo
"""


def main():
    """Install what the command line names, unless it does not fit."""
    pip = [sys.executable, "-m", "pip"]
    wanted = sys.argv[1:]
    if not has_gpu() and not os.environ.get(CUDA_ANYWAY):
        cuda = cuda_packages(pip, wanted)
        if cuda:
            sys.exit(ADVICE.format(count=len(cuda), anyway=CUDA_ANYWAY))
    subprocess.run([*pip, "install", "--quiet", *wanted], check=True)


def has_gpu():
    """Tell whether the driver lists an NVIDIA GPU."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return False
    done = subprocess.run([command, "-L"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and "GPU" in done.stdout


def cuda_packages(pip, wanted):
    """Return the CUDA packages that pip would install beside torch."""
    command = [*pip, "install", "--quiet", "--dry-run", "--report", "-", *wanted]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    packages = [entry["metadata"]["name"] for entry in json.loads(done.stdout)["install"]]
    return [name for name in packages if name.startswith(("nvidia-", "cuda-"))]


if __name__ == "__main__":
    main()
