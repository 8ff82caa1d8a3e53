"""``shell:`` jobs on a node, with and without a Snakemake of their own there: the same results."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="the extra [cluster] is not installed")

from tests import containers
from tests.acceptance.running import Workflow
from tests.acceptance.test_environments import CONDA, SDM, make_environment
from tests.containers import make_image, make_root, with_apptainer
from tests.integration.test_running_dask import options, running_dask

SNAKEFILE = r"""
import os
shell.prefix("set -euo pipefail; export OF_PREFIX='a b'; ")
envvars: "DECLARED"

CASES = ["env", "names", "quoted", "long", "kept", "threads", "conda", "again", "stdin", "tmpdir"]
CASES += ["modules", *config.get("contained", [])]

rule all:
    input:
        expand("out/{case}.txt", case=CASES), "dir", "out/touched", "out/protected.txt",
        "out/joined.txt", "out/shadowed.txt"
    default_target: True

rule env:
    output: "out/env.txt"
    shell: "env -0 | sort -z | tr '\\0' '\\n' > {output}; ps -o args= -p $PPID > parent.txt"

rule names:
    input: a="in/a b.txt", b=["in/1.txt", "in/2.txt"]
    output: "out/names.txt"
    log: "log/names/{rule}.log".format(rule="names")
    params: x=lambda wildcards, input, threads: f"{len(input)} {threads}", y="it's $HOME"
    threads: 2
    resources: mem_mb=10, odd="w x"
    shell:
        "echo started > {log}; pwd; echo on stderr >&2; "
        "cat {input.a:q} {input.b} > {output}; "
        "echo {params.x} {params.y:q} {threads} {resources.mem_mb} {resources.odd:q} >> {output}"

rule quoted:
    output: "out/quoted.txt"
    shell:
        '''
        printf '%s\n' "a  b" 'c"d' é $(( 1 + 2 )) "$OF_PREFIX" $'tab\there' > {output}
        cat <<'END' >> {output}
        {{braces}} $not_expanded `nor this`
END
        '''

rule long:
    output: "out/long.txt"
    params: text="x" * 200_000
    shell: "echo {params.text} | wc -c > {output}"

rule kept:
    output: "out/kept.txt", "out/deep/er/{other}.txt".format(other="second")
    shell: "for f in {output}; do echo $f > $f; done; chmod 640 {output[0]}"

rule threads:
    output: "out/threads.txt"
    threads: 2
    shell: "echo $OMP_NUM_THREADS $MKL_NUM_THREADS $NUMEXPR_NUM_THREADS > {output}"

rule conda:
    output: "out/conda.txt"
    conda: config["prefix"]
    shell: "onlyhere > {output}; echo $HOOK ${{PYTHONPATH-none}} >> {output}"

rule modules:
    output: "out/modules.txt"
    envmodules: "compiler/1.0", "library/2.0"
    shell: "echo $LOADED > {output}; type -t module >> {output}"

rule contained:
    output: "out/contained.txt"
    log: "log/contained.log"
    container: "image.sif"
    threads: 2
    shell:
        "echo $LABEL [$CUDA_VISIBLE_DEVICES] $OMP_NUM_THREADS 'a  b' > {output}; "
        "ls /usr >> {output}; echo from inside > {log}; pwd > /dev/null"

rule again:
    output: "out/again.txt"
    retries: 2
    resources: at=lambda wildcards, attempt: attempt
    shell: "echo half > {output}; echo {resources.at} >> again.tries; "
        "test {resources.at} = 2 || kill -9 $$; echo whole > {output}"

rule stdin:
    output: "out/stdin.txt"
    shell: "cat > {output}; echo end >> {output}"

rule tmpdir:
    output: "out/tmpdir.txt"
    shell: "echo {resources.tmpdir} $TMPDIR $TEMP > {output}; test -w \"$TMPDIR\""

rule dir:
    output: directory("dir")
    shell: "mkdir {output}; echo one > {output}/1"

rule touched:
    output: touch("out/touched")
    shell: "test ! -e {output}"

rule protected:
    output: protected("out/protected.txt")
    shell: "echo p > {output}"

rule passing:
    output: temp("out/passing.txt"), empty=temp(touch("out/empty"))
    shell: "echo passing > {output[0]}"

rule joined:
    input: "out/passing.txt", "out/empty"
    output: "out/joined.txt"
    shell: "cat {input} > {output}"

rule shadowed:
    input: "in/1.txt"
    output: "out/shadowed.txt"
    shadow: "minimal"
    shell: "echo side > side.txt; cat {input} > {output}"
"""

FAILING = """

rule failing:
    output: "out/failing.txt", "out/another.txt"
    log: "log/failing.log"
    shell: "echo of the log > {log}; echo half > {output[0]}; echo said >&2; false | cat; echo no"

rule inside:
    output: "out/inside.txt"
    container: "image.sif"
    shell: "echo half > {output}; echo said inside >&2; exit 5"

rule late:
    input: "out/failing.txt"
    output: "late.txt"
    shell: "touch {output}"

rule silent:
    output: "out/silent.txt"
    shell: "true"
"""

#: Variables that differ between any two processes, or name the way that a job has come.
VOLATILE = ("_=", "SHLVL=", "OLDPWD=", "GPUPOOL_NODE_SNAKEMAKE=", "__DASK_PARENT_PID=")
#: What a Snakemake on the node may do otherwise than this machine's; the rest is as local jobs'.
OF_NODES = ("out/env.txt", "out/names.txt", "out/again.txt", "out/tmpdir.txt")
#: Compare all of it with a Snakemake on the node, which takes some minutes.
COMPARES_ALL = os.environ.get("GPUPOOL_TEST_BOTH_WAYS") == "1"


#: As sites have it: a function of the shell, which their start files define.
MODULE = """
module() {
    case $1 in
    purge) export LOADED=purged ;;
    load) shift; export LOADED="$LOADED $*" ;;
    esac
}
"""
CONTAINED = [] if containers.why_not() else ["contained"]


def test_a_command_leaves_what_it_would_leave_otherwise(tmp_path: Path) -> None:  # K1 K4 S4
    """Beside a Snakemake on the node for each job, and beside the local executor."""
    prefix, modules = tmp_path / "prefix", tmp_path / "modules.sh"
    make_environment(sys.executable, prefix)
    (tmp_path / "node tmp").mkdir()
    modules.write_text(MODULE)
    software = {"BASH_ENV": str(modules), **with_apptainer(str(CONDA.parent))}
    node = {"TMPDIR": str(tmp_path / "node tmp"), "ON_NODE": "1", "PYTHONPATH": str(tmp_path)}
    config = ("--config", f"prefix={prefix}", f"contained={json.dumps(CONTAINED)}")
    config += (*SDM, "env-modules", *(["apptainer"] if CONTAINED else []))
    root = make_root(tmp_path / "root") if CONTAINED else None
    found, failed = {}, {}
    for way in ("auto", "always"):
        workflow = new_workflow(tmp_path / way, root)
        targets = OF_NODES if way == "always" and not COMPARES_ALL else ()
        with running_dask(workflow, {**node, **software}) as dask:
            cluster = (*options(dask), "--gpupool-cpu-rules", "cluster", *config)
            seen = {"GPUPOOL_NODE_SNAKEMAKE": way, "DECLARED": "x y", **software}
            found[way] = run_once(workflow, seen, *cluster, "--", *targets)
            failed[way] = run_failing(workflow, seen, *cluster)
    local = new_workflow(tmp_path / "local", root)
    seen |= {"GPUPOOL_NODE_SNAKEMAKE": "auto"}
    found["local"] = run_once(local, seen, "--executor", "local", "--cores", "2", *config)
    fast, whole, here = found["auto"], found["always"], found["local"]
    assert "snakemake" not in (tmp_path / "auto/parent.txt").read_text()
    assert "snakemake" in (tmp_path / "always/parent.txt").read_text()
    assert {name: fast[name] for name in whole} == whole
    assert failed["auto"] == failed["always"]
    of_nodes = {"out/env.txt", "out/tmpdir.txt"}
    assert {n: fast[n] for n in fast.keys() - of_nodes} == {
        n: here[n] for n in here.keys() - of_nodes
    }
    assert "ON_NODE=1" in fast["out/env.txt"] and "node tmp" in fast["out/tmpdir.txt"]
    assert (tmp_path / "auto/again.tries").read_text() == "1\n2\n"
    assert fast["out/modules.txt"] == "644 purged compiler/1.0 library/2.0\nfunction\n"
    if CONTAINED:
        assert fast["out/contained.txt"].startswith("644 image [] 2 a  b\n")
        assert "local" in fast["out/contained.txt"] and "share" not in fast["out/contained.txt"]


def new_workflow(directory: Path, root: Path | None) -> Workflow:
    """The workflow, not run yet; ``root``: of its image."""
    files = {"in/a b.txt": "a\n", "in/1.txt": "1\n", "in/2.txt": "2\n"}
    workflow = Workflow(directory, SNAKEFILE + FAILING, files)
    if root is not None:
        make_image(directory / "image.sif", root, LABEL="image")
    return workflow


def run_once(workflow: Workflow, env: dict[str, str], *arguments: str) -> dict[str, str]:
    """Run it, and return what it leaves behind."""
    done = workflow.run(*arguments, timeout_s=500, **env)
    assert done.code == 0, done.text[-6000:]
    assert "on stderr" in done.text
    return tree(workflow.directory)


def run_failing(workflow: Workflow, env: dict[str, str], *arguments: str) -> dict[str, object]:
    """Run jobs that fail, and return what is said and left."""
    targets = ("late.txt", "out/silent.txt", *(["out/inside.txt"] if CONTAINED else []))
    failed = workflow.run(*arguments, "--keep-going", "--", *targets, timeout_s=500, **env)
    names = ("out/failing.txt", "late.txt", "out/inside.txt")
    exists = {name: (failed.directory / name).exists() for name in names}
    return {
        "code": failed.code,
        "names": "Error in rule failing" in failed.text,
        "said": "said" in failed.text,
        "inside": "said inside" in failed.text and "Error in rule inside" in failed.text,
        "log": failed.read("log/failing.log"),
        "missing": "Missing files after" in failed.text,
        **exists,
    }


def tree(directory: Path) -> dict[str, str]:
    """Every file that a run has made, with its mode and content."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if not path.is_file() or not name.startswith(("out/", "log/", "dir/")):
            continue
        text = path.read_text().replace(str(directory), "DIRECTORY")
        if name == "out/env.txt":
            lines = [line for line in text.splitlines() if not line.startswith(VOLATILE)]
            text = "\n".join(lines)
        found[name] = f"{stat.S_IMODE(path.stat().st_mode):o} {text}"
    return found
