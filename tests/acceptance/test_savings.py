"""A run of Snakemake does once what is the same for many jobs; the drawn workflows say it is."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.running import Workflow

SNAKEFILE = """
rule all:
    input: "a.up"

rule a:
    output: "a.up"
    shell: "touch {output}"

onsuccess:
    from snakemake.logging import logger
    print(type(workflow.get_rule("a").expand_resources).__name__)
    print(type(workflow.persistence._io_write).__name__)
    print({type(each.formatter.format).__name__ for each in logger.handlers})
    print({type(each.filters[0].filter).__name__ for each in logger.handlers})
"""


def test_each_saving_is_in_place(tmp_path: Path) -> None:
    done = Workflow(tmp_path, SNAKEFILE, {}).run()
    assert done.code == 0, done.text
    for line in ("RuleResources", "Records", "{'Once'}"):
        assert line in done.text.splitlines(), done.text
    assert done.text.splitlines().count("{'Once'}") == 2
