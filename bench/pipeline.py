"""One model call per file: today's ways, Snakemake's floor, and gpupool, in one run.

Every round runs each rival once, so that what else the machine does falls on all
alike; the table gives medians. All rivals are kept to the same cores, see no GPU,
and must write the same numbers::

    python bench/pipeline.py                             the whole bench, 120 files
    python bench/pipeline.py --files 12 --repeats 1      a quick look
    python bench/pipeline.py --rivals bcd                without the slow one
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import agreement
import report
import rivals
import timeline
import workload
from measure import OUT, RivalFailed, Runs, end_on_sigterm, environment, limit_cores, machine

#: The architecture of the smallest published ESM-2: layers, width, heads.
SHAPE_8M = (6, 320, 20)
#: Run in a process of its own, so that the bench itself never imports torch.
WRITE_CHECKPOINT = """
import sys
from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint
print(write_seeded_checkpoint(sys.argv[1], *map(int, sys.argv[2:])))
"""
ROOM = OUT / "pipeline"
AGAINST_LOCAL = 1 / 11
AGAINST_SCRIPT_AND_FLOOR = 1.08
#: Snakemake's own time included.
AGAINST_SCRIPT = 1.0


class Contest:
    """All rivals and their runs.

    Parameters
    ----------
    task
        What they have to do.
    names
        Which of ``a``, ``b``, ``c`` and ``d`` take part.
    """

    def __init__(self, task: rivals.Task, names: str, devices: str | None) -> None:
        self.task = task
        self.names = names
        self.devices = ["--gpupool-devices", devices] if devices else []
        self.local = Runs("(a) local executor, one process per file")
        self.scripts = {
            options: Runs(f"(b) one script, {options}")
            for options in rivals.script_options(task.cores)
        }
        self.floor = Runs("(c) executor that only touches outputs")
        self.first = Runs("(d) gpupool, the workflow's first run")
        self.served = Runs("(d) gpupool, any later run")

    def round(self, number: int, with_local: bool = True) -> None:
        """Run everyone once."""
        room = ROOM / f"round{number}"
        if "a" in self.names and with_local:
            self._run(self.local, rivals.one_process_per_file, self.task, room / "local")
        if "b" in self.names:
            for count, (options, runs) in enumerate(self.scripts.items()):
                place = room / f"script{count}"
                self._run(runs, rivals.single_script, self.task, place, options)
        if "c" in self.names:
            self._run(self.floor, rivals.touch_floor, room / "floor", *self.task.config)
        if "d" in self.names:
            options = [*self.devices, *self.task.config]
            shutil.rmtree(OUT / "cache" / "gpupool" / "early", ignore_errors=True)
            self._run(self.first, rivals.gpupool, room / "first", *options)
            self._run(self.served, rivals.gpupool, room / "gpupool", *options)

    def _run(self, runs: Runs, rival, *arguments) -> None:
        rival(runs, *arguments)
        say(f"  {runs.label}: {runs.walls_s[-1]:.2f} s")

    @property
    def all_runs(self) -> list[Runs]:
        """Return everyone's runs, in the order of the table."""
        return [self.local, *self.scripts.values(), self.floor, self.first, self.served]

    @property
    def best_script(self) -> Runs | None:
        """Return the script's quickest configuration."""
        ran = [runs for runs in self.scripts.values() if runs.walls_s]
        return min(ran, key=lambda runs: runs.median_s, default=None)

    def targets(self) -> list[report.Target]:
        """Return what can be judged from those who ran."""
        judged = []
        if not self.served.walls_s:
            return judged
        served_s, script = self.served.median_s, self.best_script
        if self.local.walls_s:
            judged.append(report.Target("d / a", served_s / self.local.median_s, AGAINST_LOCAL))
        if script:
            ratio = served_s / script.median_s
            judged.append(report.Target("d / the best b", ratio, AGAINST_SCRIPT))
        if script and self.floor.walls_s:
            ratio = served_s / (script.median_s + self.floor.median_s)
            judged.append(report.Target("d / (b + c)", ratio, AGAINST_SCRIPT_AND_FLOOR))
        return judged

    def differences(self) -> dict[str, float]:
        """Return, by label, how far each one's numbers are from the first one's that ran.

        Raises
        ------
        agreement.Disagreement
            Files, names or shapes differ.
        """
        wrote = [runs for runs in self.all_runs if runs.directory and runs is not self.floor]
        places = {runs.label: runs.directory / "embeddings" for runs in wrote if runs.directory}
        labels = list(places)
        return {
            label: agreement.largest_difference(places[labels[0]], places[label])
            for label in labels[1:]
        }


def main() -> int:
    """Run the bench; return 0 if outputs agree and every target is reached."""
    options = parse_arguments()
    end_on_sigterm()
    cores = limit_cores(options.cores)
    facts = machine()
    counted, checkpoint = prepare(options.files, options.seed)
    say("\n".join(report.facts_lines(facts | {"workload": str(counted)})))
    task = rivals.Task(ROOM / "fasta", checkpoint, cores)
    contest = Contest(task, options.rivals, options.devices)
    try:
        for number in range(options.repeats):
            say(f"\nround {number + 1} of {options.repeats}")
            contest.round(number, with_local=number < options.local_repeats)
        differences = contest.differences()
    except (RivalFailed, agreement.Disagreement) as error:
        say(f"\nFAIL: {error}")
        return 1
    targets = contest.targets()
    agreed = all(value <= agreement.TOLERANCE for value in differences.values())
    say_results(contest, targets, differences, agreed)
    if options.json:
        more = {
            "workload": vars(counted),
            "largest_differences": differences,
            "gpupool": timeline.summary(contest.served),
        }
        report.write_json(options.json, facts, contest.all_runs, targets, **more)
    return 0 if agreed and all(target.reached for target in targets) else 1


def prepare(files: int, seed: int) -> tuple[workload.Facts, Path]:
    """Empty the bench's room; write workload and checkpoint; import once what rivals import."""
    for directory in (ROOM, OUT / "cache"):
        shutil.rmtree(directory, ignore_errors=True)
    shape = [str(number) for number in SHAPE_8M]
    checkpoint = python("-c", WRITE_CHECKPOINT, str(OUT), *shape).strip()
    python("-c", "import snakemake.cli")
    return workload.write(ROOM / "fasta", files, seed), Path(checkpoint)


def python(*arguments: str) -> str:
    """Run a little Python as the rivals run theirs; return what it prints."""
    command = [sys.executable, *arguments]
    ran = subprocess.run(command, check=True, env=environment(), stdout=subprocess.PIPE, text=True)
    return ran.stdout


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=120, help="FASTA files (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="of the workload (default: 0)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument(
        "--local-repeats", type=int, help="rounds in which (a), the slow one, runs (default: all)"
    )
    parser.add_argument("--cores", type=int, default=2, help="cores for everyone (default: 2)")
    parser.add_argument("--rivals", default="abcd", help="who takes part (default: abcd)")
    parser.add_argument("--devices", help="gpupool's devices (default: it picks them itself)")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args()
    if options.repeats < 1 or options.files < 1 or options.cores < 1:
        parser.error("--files, --repeats and --cores must be at least 1")
    if not options.rivals or set(options.rivals) - set("abcd"):
        parser.error("--rivals takes letters out of abcd")
    if options.local_repeats is None:
        options.local_repeats = options.repeats
    return options


def say_results(
    contest: Contest,
    targets: list[report.Target],
    differences: dict[str, float],
    agreed: bool,
) -> None:
    """Print the table, the agreement, the verdicts, and where gpupool's time went."""
    say("")
    say("\n".join(report.table(contest.all_runs)))
    if differences:
        verdict = "PASS" if agreed else "FAIL"
        worst = f"largest difference {max(differences.values()):.1e}"
        say(f"\n- {verdict}: outputs agree; {worst} (<= {agreement.TOLERANCE:g})")
    say("\n".join(map(str, targets)))
    say("\n" + "\n".join(timeline.lines(contest.served, "torch, esm")))


def say(text: str) -> None:
    """Print at once, also into a file."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
