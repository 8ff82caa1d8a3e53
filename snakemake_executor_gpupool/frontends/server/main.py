"""``python -m snakemake_executor_gpupool.frontends.server.main --directory DIR``: by a client."""

from __future__ import annotations

import argparse
import sys

from snakemake_executor_gpupool.errors import GpupoolError
from snakemake_executor_gpupool.frontends.server.serving import ServerOptions, serve

#: How long the end of an earlier server may take.
PATIENCE_S = 20.0


def main() -> int:
    """Serve, and return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", required=True)
    parser.add_argument("--key", default="", help="of the client: another one has no use for it")
    given = parser.parse_args()
    options = ServerOptions(given.directory, key=given.key, is_quiet=True, patience_s=PATIENCE_S)
    try:
        serve(options)
    except GpupoolError:
        return 2  # the log says why
    return 0


if __name__ == "__main__":
    sys.exit(main())
