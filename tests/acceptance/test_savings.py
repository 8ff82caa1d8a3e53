"""A run of Snakemake does once what is the same for many jobs; the drawn workflows say it is."""

from __future__ import annotations

import json
from pathlib import Path

from tests.acceptance.running import Workflow

SNAKEFILE = """
rule all:
    input: "a.up"

rule a:
    output: "a.up"
    params: some=1
    shell: "touch {output}"

onsuccess:
    from snakemake.logging import logger
    print(type(workflow.get_rule("a").expand_resources).__name__)
    print(type(workflow.persistence._io_write).__name__)
    import importlib.util, sys
    print("pandas", importlib.util.find_spec("pandas") is not None, "pandas" in sys.modules)
    print({type(each.formatter.format).__name__ for each in logger.handlers})
    print({type(each.filters[0].filter).__name__ for each in logger.handlers})
"""


def test_each_saving_is_in_place(tmp_path: Path) -> None:
    done = Workflow(tmp_path, SNAKEFILE, {}).run()
    assert done.code == 0, done.text
    for line in ("RuleResources", "Records", "{'Once'}", "pandas True False"):
        assert line in done.text.splitlines(), done.text
    assert done.text.splitlines().count("{'Once'}") == 2
    (record,) = (tmp_path / ".snakemake" / "metadata").iterdir()
    assert json.loads(record.read_text())["params"] == ["1"]
