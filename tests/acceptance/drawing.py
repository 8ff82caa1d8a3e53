"""Draws small workflows, what happens to their files between two runs, and options, from a seed."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.running import TOOLS

#: A wildcard that repeats itself is refused by Snakemake.
LONG = "".join(map(str, range(60)))
NAMES = ("a", "b", "c d", "é", "x=1, y=2", "q'u", LONG, "$HOME", "a.b", "-n", "ü")
FAULTS = ("run", "run", "read", "write", "late")
HEAD = """
import collections, pathlib, signal

def of_wildcards(wildcards):
    return "s" + str(len(wildcards.get("s", "")) % 2)

def of_inputs(wildcards, input):
    return "i" + str(sum(len(open(path).read()) for path in input if not os.path.isdir(path)) % 3)

def listed(wildcards):
    import glob
    directory = checkpoints.split.get(s=wildcards.s).output[0]
    return sorted(glob.glob(glob.escape(directory) + "/**/*.txt", recursive=True))

wildcard_constraints: s="[^/]+"
"""
SHELL = (
    '    shell: "for each in {input:q}; do if [ -d \\"$each\\" ]; then ls \\"$each\\"; '
    'else cat \\"./$each\\"; fi; done | sort > {output:q}"'
)
RUN = """\
    run:
        texts = [open(path).read() for path in input if not os.path.isdir(path)]
        with open(output[0], 'w') as file:
            file.write(''.join(texts)[::-1].replace('|', '~'))"""
WAYS = ("edit", "edit", "mend", "remove", "spoil", "touch", "code", "params", "forget", "age")
#: Params that a tool shows as they are.
SHOWN = (
    '{"a": [1, 2.5, None, True], "b": {"c": ("t", pathlib.Path("u"))}}',
    'collections.Counter("aab")',
    "signal.SIGINT",
    '[-0.0, 1e300, b"x", 1j]',
    '{"only"}',
    "lambda wildcards, input, output, threads: [list(input), output, threads]",
)
OPTIONS = (
    ["--forceall"],
    ["--touch"],
    ["--notemp"],
    ["--keep-incomplete"],
    ["--delete-temp-output"],
    ["--retries", "1"],
    ["--batch", "all=1/2"],
    *([["--rerun-triggers", trigger] for trigger in ("mtime", "params", "code", "input")]),
)


@dataclass
class Rule:
    """A rule of a drawn workflow: what it writes, and whether once for each sample."""

    name: str
    output: str
    is_each: bool = True
    is_temp: bool = False
    lines: list[str] = field(default_factory=list)


class Drawing:
    """A workflow, drawn from a seed.

    Attributes
    ----------
    files
        What is there beforehand, by its path.
    targets
        What is asked for.
    """

    def __init__(self, seed: int, *, faults: bool | None = None) -> None:
        self.draw = random.Random(seed)
        draw = self.draw
        self.samples = draw.sample(NAMES, draw.choice([2, 3, 4]))
        self.has_faults = draw.random() < 0.6 if faults is None else faults
        self.rules: list[Rule] = [Rule("in", "in/{s}.txt")]
        self.targets: list[str] = []
        self.has_checkpoint = False
        for number in range(1, draw.choice([3, 4, 5, 6]) + 1):
            self._add(number)
        self.files = {f"in/{sample}.txt": self._input() for sample in self.samples}
        if draw.random() < 0.4:  # the same content under two names
            self.files[f"in/{self.samples[0]}.txt"] = self.files[f"in/{self.samples[1]}.txt"]
        self.files["drawn.py"] = (TOOLS / "drawn.py").read_text()

    @property
    def snakefile(self) -> str:
        """Its Snakefile."""
        return (
            f"import os\nSAMPLES = {self.samples!r}\n{HEAD}\n"
            f"rule all:\n    input: {', '.join(self.targets)}\n\n"
            + "\n\n".join("\n".join(rule.lines) for rule in self.rules if rule.lines)
            + "\n"
        )

    def _input(self) -> str:
        draw, lines = self.draw, []
        for _ in range(draw.choice([0, 1, 2, 2, 3, 5])):
            line = f"word{draw.randrange(6)}"
            if self.has_faults and draw.random() < 0.15:
                line += f"|{draw.choice(FAULTS)}@r{draw.randrange(1, 6)}"
            lines.append(line)
        return "".join(f"{line}\n" for line in lines)

    def _add(self, number: int) -> None:
        draw, name = self.draw, f"r{number}"
        if draw.random() < 0.12 and not self.has_checkpoint:
            return self._add_checkpoint(number)
        before = draw.choice(self.rules[-2:]) if draw.random() < 0.8 else draw.choice(self.rules)
        gathers = before.is_each and draw.random() < 0.15
        is_each = before.is_each and not gathers
        inputs = [f'expand("{before.output}", s=SAMPLES)' if gathers else f'"{before.output}"']
        if draw.random() < 0.35 and (other := draw.choice(self.rules)) is not before:
            if other.is_each and not is_each:
                inputs.append(f'expand("{other.output}", s=SAMPLES)')
            else:
                inputs.append(f'other="{other.output}"')
        if not gathers and draw.random() < 0.08:
            inputs[0] = f"ancient({inputs[0]})"
        kind = draw.choices(["served", "shell", "run"], [0.75, 0.17, 0.08])[0]
        rule = self._rule(name, ", ".join(inputs), is_each=is_each, kind=kind)
        self.rules.append(rule)
        self._want(rule)
        if kind == "served" and is_each and draw.random() < 0.12:
            self._use_again(rule)
        return None

    def _use_again(self, rule: Rule) -> None:
        """Add a rule that is another one but for its output and some params."""
        name = f"{rule.name}again"
        params = f'model="{self.draw.choice(["m1", "m4"])}", stage="{rule.name}"'
        lines = [f"use rule {rule.name} as {name} with:", f'    output: "{name}/{{s}}.txt"']
        lines.append(f"    params: {params}")
        if any(line.lstrip().startswith("log:") for line in rule.lines):
            lines.append(f'    log: "logs/{name}/{{s}}.log"')
        if any(line.lstrip().startswith("benchmark:") for line in rule.lines):
            lines.append(f'    benchmark: "bench/{name}/{{s}}.tsv"')
        again = Rule(name, f"{name}/{{s}}.txt", lines=lines)
        self.rules.append(again)
        self._want(again)

    def _rule(self, name: str, inputs: str, *, is_each: bool, kind: str) -> Rule:
        draw = self.draw
        folder = draw.choice(["deep/{s}/", "{s}/", ""]) if is_each else ""
        place = folder + ("{s}" if is_each else "whole")
        is_directory = kind == "served" and draw.random() < 0.12
        plain = f"{name}/{place}.{'dir' if is_directory else 'txt'}"
        flag = draw.choices(["", "temp", "protected", "ensure"], [0.68, 0.17, 0.08, 0.07])[0]
        output = f'"{plain}"'
        if is_directory:
            flag = "temp" if flag == "temp" else ""
            output = f"directory({output})"
        if flag:
            output = f"{flag}({output}{', non_empty=True' if flag == 'ensure' else ''})"
        outputs = ", ".join(
            [output, *(self._more_outputs(name, place) if kind == "served" else [])]
        )
        lines = [f"rule {name}:", f"    input: {inputs}", f"    output: {outputs}"]
        lines += self._words(name, place, may_have_shadow="update(" not in outputs)
        if kind == "served":
            lines += self._served(name, place)
        elif kind == "shell":
            lines += ["    localrule: True"] if draw.random() < 0.3 else []
            lines.append(SHELL)
        else:
            lines.append(RUN)
        return Rule(name, plain, is_each, flag == "temp", lines)

    def _more_outputs(self, name: str, place: str) -> list[str]:
        draw, outputs = self.draw, list[str]()
        if draw.random() < 0.25:
            outputs.append(f'"{name}/{place}.more"')
        if draw.random() < 0.15:
            outputs.append(f'touch("{name}/{place}.flag")')
        if draw.random() < 0.12:
            outputs.append(f'update("{name}/{place}.book")')
        return outputs

    def _words(self, name: str, place: str, *, may_have_shadow: bool) -> list[str]:
        """Return what any rule may have."""
        draw, lines = self.draw, list[str]()
        if draw.random() < 0.3:
            lines.append(f"    retries: {draw.choice([1, 2])}")
        if draw.random() < 0.2:
            lines.append(f"    threads: {draw.choice([1, 2])}")
        if draw.random() < 0.2:
            lines.append(f"    priority: {draw.randrange(5)}")
        if draw.random() < 0.1:
            lines.append(f'    benchmark: "bench/{name}/{place}.tsv"')
        # Locally it takes a child, which cannot be told of such wildcards.
        may_have_shadow = may_have_shadow and not any("," in sample for sample in self.samples)
        if may_have_shadow and draw.random() < 0.1:
            lines.append(f"    shadow: {draw.choice(['minimal', 'shallow', 'copy-minimal'])!r}")
        return lines

    def _served(self, name: str, place: str) -> list[str]:
        draw = self.draw
        model = draw.choice(["m1", "m2", "m3"])
        params = [f'model="{model}"', f'stage="{name}"']
        if draw.random() < 0.3:
            params.append(
                f"suffix={draw.choice(['of_wildcards', 'of_inputs', repr('x')])}".replace(
                    "of_wildcards", "lambda wildcards: of_wildcards(wildcards)"
                )
            )
        if draw.random() < 0.3:
            params.append('style="wild"')
        if draw.random() < 0.3:
            params.append(f"shown={draw.choice(SHOWN)}")
        resources = ['gpupool_tool="script"']
        if draw.random() < 0.3:
            params.append("asks=True")
            resources.append("try_=lambda wildcards, attempt: attempt")
        lines = [f"    params: {', '.join(params)}", f"    resources: {', '.join(resources)}"]
        if draw.random() < 0.6:
            more = f', hand="logs/{name}/{place}.hand"' if draw.random() < 0.3 else ""
            lines.append(f'    log: "logs/{name}/{place}.log"{more}')
        return [*lines, '    script: "drawn.py"']

    def _add_checkpoint(self, number: int) -> None:
        draw, self.has_checkpoint = self.draw, True
        before = draw.choice([rule for rule in self.rules if rule.is_each])
        split = Rule("split", "split/{s}.dir")
        split.lines = [
            "checkpoint split:",
            f'    input: "{before.output}"',
            '    output: directory("split/{s}.dir")',
            '    params: model="m1", stage="split"',
            '    resources: gpupool_tool="script"',
            '    script: "drawn.py"',
        ]
        rule = self._rule(f"r{number}", "listed", is_each=True, kind="served")
        self.rules += [split, rule]
        self._want(rule)

    def _want(self, rule: Rule) -> None:
        if rule.is_temp and self.draw.random() < 0.8:
            return
        each = f'expand("{rule.output}", s=SAMPLES)' if rule.is_each else f'"{rule.output}"'
        self.targets.append(each)

    # -- between runs --------------------------------------------------------------------------
    def changes(self) -> list[tuple[str, str]]:
        """Return what happens between two runs: what is done, and to which file or rule."""
        draw = self.draw
        found = []
        for _ in range(draw.choice([1, 1, 2, 3])):
            found.append((draw.choice(WAYS), str(draw.randrange(10**6))))
        return found

    def options(self) -> list[str]:
        """Return words for both executors' second run."""
        draw = self.draw
        ways: list[list[str]] = [[], [], [], [], *OPTIONS]
        rules = [rule.name for rule in self.rules if rule.lines]
        ways.append(["--forcerun", draw.choice(rules)])
        ways.append(["--until", draw.choice(rules)])
        ways.append(["--omit-from", draw.choice(rules)])
        return ["--rerun-incomplete", *draw.choice(ways)]

    def ours(self) -> tuple[list[str], dict[str, str]]:
        """Return words, and variables, of the pool alone."""
        draw, words = self.draw, list[str]()
        variables = {}
        if draw.random() < 0.3:
            variables["GPUPOOL_SIMULATE"] = draw.choice(["1x80GiB", "2x80GiB"])
        else:
            words += ["--gpupool-devices", f"cpu:{draw.choice([1, 2, 3])}"]
        words += draw.choice([[], [], ["--gpupool-merge", "off"]])
        words += draw.choice([[], [], ["--gpupool-early-start", "off"]])
        words += draw.choice([[], [], ["--gpupool-cache", "kept-results"]])
        words += draw.choice([[], ["--gpupool-batch-window", "0"]])
        words += draw.choice([[], ["--gpupool-idle-timeout", "0.1"]])
        words += draw.choice([[], [], [], ["--jobs", "1"]])
        if draw.random() < 0.15:
            variables["GPUPOOL_LOOKAHEAD"] = "0"
        return words, variables


def apply(directory: Path, changes: list[tuple[str, str]]) -> None:
    """Do to a workflow's files what happens between two runs; the same to equal files."""
    for what, number in changes:
        draw = random.Random(number)
        if what in ("remove", "spoil"):
            _apply_to_an_output(directory, what, draw)
        elif what == "forget":
            _forget(directory / ".snakemake/metadata", draw)
        elif what in ("code", "params"):
            old, new = ("[:10]", "[:9]") if what == "code" else ('model="m2"', 'model="m9"')
            path = directory / ("drawn.py" if what == "code" else "Snakefile")
            path.write_text(path.read_text().replace(old, new))
        else:
            _apply_to_inputs(sorted((directory / "in").iterdir()), what, draw)


def _apply_to_inputs(files: list[Path], what: str, draw: random.Random) -> None:
    path = draw.choice(files)
    if what == "edit":
        path.write_text(f"word{draw.randrange(9)}\nmore\n")
    elif what == "touch":
        path.touch()
    elif what == "age":
        os.utime(path, (1e9, 1e9))
    for path in files if what == "mend" else ():
        if "|" in (text := path.read_text()):
            lines = [line.partition("|")[0] for line in text.splitlines()]
            path.write_text("".join(f"{line}\n" for line in lines))


def _apply_to_an_output(directory: Path, what: str, draw: random.Random) -> None:
    files = [path for path in sorted(directory.glob("r[0-9]/**/*.txt")) if path.is_file()]
    files = [path for path in files if path.stat().st_mode & 0o200]
    if not files:
        return
    path = draw.choice(files)
    if what == "remove":
        path.unlink()
    else:
        path.write_text("spoilt\n")


def _forget(records: Path, draw: random.Random) -> None:
    """Remove what Snakemake knows of some outputs."""
    for path in sorted(path for path in records.rglob("*") if path.is_file()):
        if draw.random() < 0.3:
            path.unlink()
