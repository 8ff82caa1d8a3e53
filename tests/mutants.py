"""Breaks the code on purpose, one place at a time, and sees which unit tests notice.

``make mutants`` copies the tree, runs the tests that the table names on it as it is, and applies
each break by itself and runs that break's own tests, for so long at most. It prints what each
break did and fails if one was noticed by nobody. ``make mutants ARGS="order lock"`` applies those
whose behaviour or file has one of the words.

A text that is no longer in the code exactly once is an error: ``tests/unit/test_mutants.py`` says
so at once.
"""

from __future__ import annotations

import compileall
import concurrent.futures
import contextlib
import multiprocessing
import os
import py_compile
import queue
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "snakemake_executor_gpupool"
#: What a copy needs for unit tests.
COPIED = (PACKAGE, "snakemake_executor_plugin_gpupool", "tests", "pyproject.toml", "docs")
LIMIT_S = 90.0
AT_ONCE = 2
#: Test runs are forked from a process that has imported these already, and nothing of gpupool.
FORKS = multiprocessing.get_context("forkserver")
IMPORTED = (
    *("pytest", "_hypothesis_pytestplugin", "hypothesis.stateful", "pytest_timeout", "pytest_cov"),
    *("xdist.plugin", "anyio.pytest_plugin", "snakemake.executors.local"),
)


class Mutant(NamedTuple):
    """One deliberate break.

    Attributes
    ----------
    breaks
        The behaviour that no longer holds.
    file
        Below the package.
    find, put
        The text to find, exactly once, and what to put in its place.
    tests
        Which unit tests are to notice: files below ``tests/unit``, or tests of them.
    """

    breaks: str
    file: str
    find: str
    put: str
    tests: tuple[str, ...]


MUTANTS = (
    # -- the worker's side ------------------------------------------------------------------
    Mutant(
        "outputs are staged: nothing half-written under a final name",
        "worker/outputs.py",
        "        self.places[path] = os.path.join(self.folders[parent], base)\n",
        "        self.places[path] = path\n",
        ("test_outputs.py",),
    ),
    Mutant(
        "a staged output is published only if its job's inputs are what it was made from",
        "worker/staging.py",
        "return [digest(path) for path in job.input] == digests",
        "return True",
        ("test_staging.py",),
    ),
    Mutant(
        "a job one of whose outputs is missing is not published",
        "worker/staging.py",
        "if len(outputs) != len(job.output) or not is_complete(outputs, touched):",
        "if len(outputs) != len(job.output):",
        ("test_staging.py",),
    ),
    Mutant(
        "a result of a tool that is not deterministic is not kept",
        "worker/batch.py",
        "if kept is not None and key is not None:",
        "if kept is not None:",
        ("test_batch.py",),
    ),
    Mutant(
        "a kept result is checked before it is used",
        "worker/result_file.py",
        "if checksum.digest() != digest:",
        "if False:",
        ("test_kept_results.py",),
    ),
    Mutant(
        "a kept result is the one that was asked for",
        "worker/result_file.py",
        "if key_bytes != len(key) or head[HEADER.size :] != key:",
        "if key_bytes != len(key):",
        ("test_kept_results.py",),
    ),
    Mutant(
        "a result's key changes with the tool's own code",
        "worker/code_digest.py",
        'contents[module.path] = f"{module.name}:{hashlib.sha256(data).hexdigest()}"',
        "contents[module.path] = module.name",
        ("test_keys.py",),
    ),
    Mutant(
        "one bad item of a batch costs the others nothing, and keeps their order",
        "worker/batch.py",
        "outcomes = again(first) + again(second)",
        "outcomes = again(second) + again(first)",
        ("test_batch.py",),
    ),
    Mutant(
        "every batch of a reproducible run has all rows of its shape",
        "worker/same_bits.py",
        "rows = len(items) if shape is None else shape.rows",
        "rows = len(items)",
        ("test_same_bits.py",),
    ),
    Mutant(
        "items of a reproducible run are grouped by what they are padded to",
        "worker/same_bits.py",
        "by_rung.setdefault(rung_of(tool, item), []).append(place)",
        "by_rung.setdefault(rung_of(tool, items[0]), []).append(place)",
        ("test_same_bits.py",),
    ),
    Mutant(
        "results of a reproducible run, or of another seed, are other results",
        "tool_api/mode.py",
        'return "\\n".join(parts)',
        "return environment",
        ("test_same_bits.py",),
    ),
    # -- what crosses -----------------------------------------------------------------------
    Mutant(
        "items of other params, or of another group, are other items",
        "wire/kept.py",
        "    return space, model, group, item\n",
        '    return space, model, "", item\n',
        ("test_scheduler.py",),
    ),
    Mutant(
        "items of other params that are read for the pool are other items",
        "scheduling/intake.py",
        "            keys = [(space, model, group, key) for",
        '            keys = [(space, model, "", key) for',
        ("test_scheduler.py",),
    ),
    Mutant(
        "a file that blobs share is removed with the last of them",
        "wire/spool.py",
        "        if needed > 0:\n",
        "        if needed < 0:\n",
        ("test_spool.py",),
    ),
    # -- decisions --------------------------------------------------------------------------
    Mutant(
        "a kept result that is handed out is held: its file stays while a job needs it",
        "scheduling/results.py",
        "            known.holders += 1\n            placed.append(known)\n",
        "            placed.append(known)\n",
        ("test_ledger.py",),
    ),
    Mutant(
        "an item that failed is computed again when it is asked for again",
        "scheduling/results.py",
        '        item.payload = b""\n        self._work_items.pop(item.key, None)\n',
        '        item.payload = b""\n',
        ("test_ledger.py",),
    ),
    Mutant(
        "every item gets its own result, in the job's order",
        "scheduling/job_state.py",
        "            order.append(places[id(item)])\n",
        "            order.append(len(order) % len(blobs))\n",
        ("test_jobs.py",),
    ),
    Mutant(
        "an item is computed apart only when no merged run has it",
        "scheduling/merging/run.py",
        "if not item.is_merged and not item.is_done]",
        "if not item.is_done]",
        ("test_chains.py",),
    ),
    Mutant(
        "jobs that follow one whose stage went alone find their models where these are loaded",
        "scheduling/merging/by_stage.py",
        "enumerate(request.follow, offset + 1)",
        "enumerate(request.follow, offset)",
        ("test_by_stage.py",),
    ),
    Mutant(
        "a request with an item that failed is not taken to be whole",
        "scheduling/merging/by_stage.py",
        "        if len(found) == end - start:",
        "        if found:",
        ("test_by_stage.py",),
    ),
    Mutant(
        "a stage that was computed alone is written as any job's",
        "scheduling/merging/run.py",
        "        if merged.is_single and job is not None:",
        "        if False:",
        ("test_by_stage.py::test_what_is_computed_by_itself_is_written_as_any_job_is",),
    ),
    Mutant(
        "a dropped job's merged run is not started",
        "scheduling/scheduler.py",
        "            self.merges.drop_unwanted(now_s)\n        self._settle",
        "        self._settle",
        ("test_chains.py",),
    ),
    Mutant(
        "a failed item fails every job that contains it, and no other",
        "scheduling/jobs.py",
        "map(self._jobs.get, dict.fromkeys(waiters))",
        "map(self._jobs.get, waiters[:1])",
        ("test_jobs.py",),
    ),
    Mutant(
        "nobody computes what only ended jobs have asked for",
        "scheduling/jobs.py",
        "for item in job.items if job.missing else ():",
        "for item in () if job.missing else job.items:",
        ("test_jobs.py",),
    ),
    Mutant(
        "leased devices count as demand",
        "scheduling/demand.py",
        "    devices = sum(cards.values()) + len(leased)\n",
        "    devices = sum(cards.values())\n",
        ("test_demand.py",),
    ),
    Mutant(
        "no batch is sent to a node that is about to end",
        "scheduling/models/batching.py",
        "        if self._comes_too_late(worker, items, now_s):\n",
        "        if False:\n",
        ("test_demand.py",),
    ),
    Mutant(
        "an answer is believed only from the worker that was asked, about its oldest batch",
        "scheduling/frame_gate.py",
        "                if not worker.in_flight or worker.in_flight[0] != job_id:\n",
        "                if False:\n",
        ("test_answers.py",),
    ),
    # -- devices ----------------------------------------------------------------------------
    Mutant(
        "a device is taken by its lock, which one process has at a time",
        "devices/lock_files.py",
        "            if not try_lock(fd, how):\n",
        "            if try_lock(fd, how) is None:\n",
        ("test_locks.py",),
    ),
    Mutant(
        "a process without a GPU sees none",
        "devices/visibility.py",
        "        if kind.word not in held:\n",
        "        if False:\n",
        ("test_environment.py", "test_local_ends.py"),
    ),
    Mutant(
        "a request gets no card of another model than it asks for",
        "devices/device_spec.py",
        "        if self.card and not self.card.accepts(device, maker_of(device)):\n",
        "        if False:\n",
        ("test_card_wish.py",),
    ),
    Mutant(
        "results of one model of card are not given to a rule that asks for another",
        "tool_api/mode.py",
        "        if card:\n",
        "        if False:\n",
        ("test_card_wish.py",),
    ),
    Mutant(
        "a job with AMD cards has them chosen once, within what the user left",
        "devices/kinds/rocm.py",
        "for device in devices), ROCR: None}\n",
        'for device in devices), ROCR: "0"}\n',
        ("test_rocm.py",),
    ),
    Mutant(
        "partitions of one AMD card have locks of their own",
        "devices/kfd.py",
        '        return f"GPU-{self.unique_id}" + (f"-{function}" if function != "0" else "")\n',
        '        return f"GPU-{self.unique_id}"\n',
        ("test_rocm.py",),
    ),
    # -- hosts ------------------------------------------------------------------------------
    Mutant(
        "a worker that ignores a graceful stop is killed in the end",
        "hosts/local.py",
        "            min(running.steps, 2)\n",
        "            min(running.steps, 1)\n",
        ("test_local_ends.py",),
    ),
    Mutant(
        "a device is free only once the driver says that the dead process is off it",
        "hosts/local.py",
        "if not self._memory_release.is_rid_of(",
        "if False and self._memory_release.is_rid_of(",
        ("test_local_ends.py",),
    ),
    Mutant(
        "what a worker sent before its end is taken",
        "hosts/local.py",
        "        if not running.complaint:\n            self._service",
        "        if running.complaint:\n            self._service",
        ("test_local_ends.py",),
    ),
    Mutant(
        "nobody is blamed for what went with its node",
        "hosts/cluster/membership.py",
        "reason, expected=False, blameless=True))",
        "reason, expected=False, blameless=False))",
        ("test_cluster_host.py",),
    ),
    Mutant(
        "a node whose time is nearly up gets nothing new",
        "hosts/cluster/membership.py",
        "if node.ends_s - now_s < DRAIN_S]",
        "if node.ends_s < 0]",
        ("test_cluster_host.py",),
    ),
    # -- the loop ---------------------------------------------------------------------------
    Mutant(
        "a worker that broke the protocol is not believed any more",
        "runtime/loop.py",
        "                if self.host.believes(event.worker_id):\n",
        "                if True:\n",
        ("test_loop.py",),
    ),
    Mutant(
        "a cancelled run ends its workers",
        "runtime/loop.py",
        "        self.take(ev.Cancelled(reason), now_s)\n        self.host.stop_all(force=True)\n",
        "        self.take(ev.Cancelled(reason), now_s)\n",
        ("test_loop.py",),
    ),
    Mutant(
        "results are written in the job's order",
        "runtime/carry_out.py",
        "parts, hashes = (effect.order, effect.names,",
        "parts, hashes = (sorted(effect.order), effect.names,",
        ("test_carry_out.py",),
    ),
    Mutant(
        "of a large job no more items become work than may",
        "scheduling/job_state.py",
        "    return has_few and job.missing + items <= packed.MAX_OPEN\n",
        "    return has_few\n",
        ("test_large_jobs.py",),
    ),
    Mutant(
        "an item that another job holds, too, is not put into columns",
        "scheduling/results.py",
        "            is_last = not item.holders and key is not None",
        "            is_last = key is not None",
        ("test_large_jobs.py",),
    ),
    Mutant(
        "a call's caller is asked for more only while there is room",
        "scheduling/intake.py",
        "if job.asks and not job.backlog and job.has_room_for_next",
        "if job.asks and not job.backlog",
        ("test_calls_bit_by_bit.py",),
    ),
    Mutant(
        "what a caller has still to bring is work that more workers may be worth",
        "scheduling/models/large_jobs.py",
        "        self._later[job_id] = later\n",
        "",
        ("test_calls_bit_by_bit.py",),
    ),
    Mutant(
        "what waits of a job that has ended is let go of",
        "scheduling/jobs.py",
        "            self._ledger.discard(*items.payloads())\n",
        "            pass\n",
        ("test_large_jobs.py",),
    ),
    Mutant(
        "a large job is written only if all of its results have come",
        "worker/early_results.py",
        "        if len(values) != count:\n",
        "        if False:\n",
        ("test_large_jobs.py",),
    ),
    Mutant(
        "a call to a pool that has failed is refused, and does not wait for ever",
        "runtime/inbox.py",
        "            if self._why_ended:\n                raise PoolEnded(self._why_ended)\n",
        "            if self._why_ended:\n                return\n",
        ("test_runtime_threads.py",),
    ),
    Mutant(
        "a callback that fails costs no other callback",
        "runtime/reporter.py",
        "            self._call(tell)\n",
        "            tell()\n",
        ("test_runtime_threads.py",),
    ),
    Mutant(
        "a job that ends while Snakemake looks is looked after as well",
        "frontends/snakemake/rounds.py",
        "    reasons.release()\n",
        "",
        ("test_rounds.py",),
    ),
    Mutant(
        "answers are not gathered while a process runs out of work",
        "scheduling/files/worker_pool.py",
        "len(self.in_flight) - answers - FRAMES_LEFT",
        "len(self.in_flight)",
        ("test_frames_ahead.py",),
    ),
    Mutant(
        "garbage is looked for as usual after a run",
        "frontends/snakemake/collector.py",
        "            gc.unfreeze()\n",
        "",
        ("test_collector.py",),
    ),
    # -- what is left behind ----------------------------------------------------------------
    Mutant(
        "of kept results the longest unused go first",
        "records/result_store.py",
        "        for entry in sorted(entries):\n",
        "        for entry in sorted(entries, reverse=True):\n",
        ("test_result_store.py",),
    ),
    Mutant(
        "a clean-up removes nothing that gpupool has not made",
        "records/result_store.py",
        "                if _starts_with(at, entry.name, MAGIC):\n",
        "                if True:\n",
        ("test_result_store.py",),
    ),
    Mutant(
        "what a living run has locked is not taken for left behind",
        "records/owned.py",
        "            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n            return",
        "            return",
        ("test_owned.py",),
    ),
    # -- Snakemake's side -------------------------------------------------------------------
    Mutant(
        "a group does not go on after a member has failed",
        "frontends/snakemake/groups.py",
        "            if self._errors or self._withdrawn:\n                ready = []\n",
        "",
        ("test_groups.py",),
    ),
    Mutant(
        "a path in params reaches a tool as a path, whatever its Python",
        "frontends/snakemake/plain_values.py",
        "        return PortablePath(str(value))\n",
        "        return str(value)\n",
        ("test_translate.py",),
    ),
    Mutant(
        "an error without words is an error",
        "frontends/snakemake/executor.py",
        "        if report.error is None:\n",
        "        if not report.error:\n",
        ("test_executor.py",),
    ),
    Mutant(
        "a job's devices are given back when it ends",
        "frontends/snakemake/alone.py",
        "            self._pool.lease_done(job_id, report.error)\n",
        "",
        ("test_executor.py",),
    ),
    Mutant(
        "a job that the pool refuses is reported",
        "frontends/snakemake/served.py",
        '                self._report(JobReport(request.job_id, f"{request.title}: {error}"))\n',
        "                pass\n",
        ("test_executor.py",),
    ),
    Mutant(
        "results of two images are kept apart",
        "wire/requests.py",
        "{software}#{self.container.digest} ",
        "{software}# ",
        ("test_containers.py",),
    ),
    Mutant(
        "a worker is not started in an image that was replaced",
        "hosts/containers.py",
        "    if image_version(container.image) == container.version:\n",
        "    if True:\n",
        ("test_local_ends.py",),
    ),
    Mutant(
        "nobody waits while an image is read",
        "frontends/snakemake/served.py",
        "        elif not is_read(self._workflow, job):\n"
        "            self._help(self._serve_alone, job, done)\n",
        "",
        ("test_executor.py",),
    ),
    Mutant(
        "jobs of the lane keep to the budget of threads",
        "frontends/snakemake/admission.py",
        "            if self._fits(job):\n",
        "            if True:\n",
        ("test_lane.py",),
    ),
    Mutant(
        "a failure that will be tried again stops nothing",
        "frontends/snakemake/halt.py",
        "        if job.restart_times <= job.attempt - 1:\n",
        "        if True:\n",
        ("test_executor.py",),
    ),
)


def occurrences(mutant: Mutant, root: Path = ROOT) -> int:
    """Return how often the text of a break is in its file; 1 is right."""
    path = root / PACKAGE / mutant.file
    return path.read_text(encoding="utf-8").count(mutant.find) if path.is_file() else 0


def misfits(root: Path = ROOT) -> list[str]:
    """Return what is wrong with the table: breaks that cannot be applied, tests that are gone."""
    wrong = []
    for mutant in MUTANTS:
        if (count := occurrences(mutant, root)) != 1:
            wrong.append(f"{mutant.file}: {count} times: {mutant.find.strip()[:70]}")
            continue
        path = root / PACKAGE / mutant.file
        text = path.read_text(encoding="utf-8").replace(mutant.find, mutant.put)
        try:
            compile(text, str(path), "exec")
        except SyntaxError as error:
            wrong.append(f"{mutant.file}: is no Python when broken: {error}")
        for test in mutant.tests:
            if not (root / "tests/unit" / test.partition("::")[0]).is_file():
                wrong.append(f"{mutant.breaks}: there is no {test}")
    return wrong


class Tree:
    """A copy of what unit tests need."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                skip = shutil.ignore_patterns("__pycache__", "_build")
                shutil.copytree(source, directory / name, ignore=skip)
            else:
                shutil.copy(source, directory / name)
        # Known by its source, not by its time: a file may be broken and mended within a second.
        by_source = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(directory / PACKAGE, quiet=2, invalidation_mode=by_source)

    def notices(self, tests: tuple[str, ...], limit_s: float = LIMIT_S) -> str:
        """Run unit tests; return what one of them has to say, empty if all of them pass."""
        said = self.root / "said.txt"
        process = FORKS.Process(target=run_tests, args=(self.root, tests, said))
        process.start()
        process.join(limit_s)
        if process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
            return f"still running after {limit_s:.0f} s"
        if process.exitcode == 0:
            return ""
        lines = said.read_text(encoding="utf-8", errors="replace").splitlines()
        lines = lines or [f"exit code {process.exitcode}"]
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        return (failed or lines[-1:])[0]

    def notices_break(self, mutant: Mutant) -> str:
        """Break the copy, run the break's tests, and mend the copy."""
        path = self.root / PACKAGE / mutant.file
        whole = path.read_text(encoding="utf-8")
        path.write_text(whole.replace(mutant.find, mutant.put), encoding="utf-8")
        try:
            return self.notices(mutant.tests)
        finally:
            path.write_text(whole, encoding="utf-8")


def run_tests(root: Path, tests: tuple[str, ...], said: Path) -> None:
    """Run unit tests of a copy, in a process of its own; what pytest says goes to a file."""
    os.setsid()
    with said.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    early = [name for name in sys.modules if name.partition(".")[0] in COPIED]
    if early:
        sys.exit(f"imported from another tree: {early[0]}")
    os.chdir(root)
    sys.path[:] = [str(root), *(p for p in sys.path if ROOT not in (Path(p), Path(p).parent))]
    sys.dont_write_bytecode = True
    os.environ.update(PYTHONPATH=str(root), PYTHONDONTWRITEBYTECODE="1")
    import pytest

    # Plugins that were imported before need no rewriting.
    options = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]
    sys.exit(pytest.main([*options, *(f"tests/unit/{test}" for test in tests)]))


def main(words: list[str]) -> int:
    """Return the exit code: 0 if every break was noticed."""
    if wrong := misfits():
        print("mutants: the table no longer fits the code:", *wrong, sep="\n  ")
        return 2
    chosen = [m for m in MUTANTS if not words or any(w in f"{m.breaks} {m.file}" for w in words)]
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpupool-mutants-") as directory:
        trees: queue.SimpleQueue[Tree] = queue.SimpleQueue()
        for number in range(AT_ONCE):
            trees.put(Tree(Path(directory) / str(number)))

        def with_tree(mutant: Mutant | None) -> str:
            tree = trees.get()
            try:
                if mutant is None:
                    everything = sorted({test for each in chosen for test in each.tests})
                    return tree.notices(tuple(everything), 10 * LIMIT_S)
                return tree.notices_break(mutant)
            finally:
                trees.put(tree)

        survivors = []
        FORKS.set_forkserver_preload(list(IMPORTED))
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
            as_it_is = threads.submit(with_tree, None)
            for mutant, noticed in zip(chosen, threads.map(with_tree, chosen), strict=True):
                print(f"{'noticed ' if noticed else 'SURVIVED'}  {mutant.file}: {mutant.breaks}")
                print(
                    f"            {noticed or 'by none of ' + ', '.join(mutant.tests)}", flush=True
                )
                survivors += [] if noticed else [mutant]
        if failed := as_it_is.result():
            print(f"mutants: the tests fail on the code as it is: {failed}")
            return 2
    took_s = time.monotonic() - started_s
    print(f"{len(chosen)} breaks, {len(survivors)} survived, {took_s:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
