"""Run the tests that failed last once more, one at a time, and name those that pass now.

More than a few failures are no accident of a busy machine, and are not tried again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MAX_TESTS = 5


def main() -> int:
    """Return the exit code: 0 if all of them pass now."""
    record = Path(".pytest_cache/v/cache/lastfailed")
    failed = list(json.loads(record.read_text())) if record.exists() else []
    if not 0 < len(failed) <= MAX_TESTS:
        print(f"retest: {len(failed)} tests failed; at most {MAX_TESTS} are tried again")
        return 1
    command = [sys.executable, "-m", "pytest", *failed, *sys.argv[1:]]
    code = subprocess.run(command, check=False).returncode
    if code == 0:
        print("retest: FLAKY, passed only when run again: " + ", ".join(failed))
    return code


if __name__ == "__main__":
    sys.exit(main())
