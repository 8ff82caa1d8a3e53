"""What a tool declares of its results' differences, and what is refused."""

import pytest

from snakemake_executor_gpupool import Tolerance, Tool
from snakemake_executor_gpupool.tool_api.class_checks import why_unusable
from snakemake_executor_gpupool.tool_api.tolerance import tolerance_of

LOW, HIGH = Tolerance(1e-6), Tolerance(relative=0.02)


def test_bound_is_of_the_largest_number():
    assert Tolerance(0.5, 0.25).bound(8.0) == 2.5
    assert Tolerance().bound(1e9) == 0


def test_by_precision():
    assert tolerance_of(None, "fp32") is None
    assert tolerance_of(LOW, "anything") is LOW
    assert tolerance_of({"fp32": LOW, "bf16": HIGH}, "bf16") is HIGH
    assert tolerance_of({"fp32": LOW}, "nf4") is None


def test_of_a_tool_at_its_params():
    class Two(Tool):
        tolerance = {"fp32": LOW, "bf16": HIGH}  # noqa: RUF012
        defaults = {"precision": "fp32"}  # noqa: RUF012

    class Own(Tool):
        def result_tolerance(self):
            return HIGH if self.params.get("fast") else LOW

    assert Tool().result_tolerance() is None
    assert Two().result_tolerance() is LOW
    assert Two({"precision": "BF16"}).result_tolerance() is HIGH
    assert Own({"fast": True}).result_tolerance() is HIGH
    assert Own({}).result_tolerance() is LOW


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (1e-5, "must be Tolerance(absolute, relative)"),
        ((1e-5, 1e-4), "must be Tolerance(absolute, relative)"),
        ({"fp32": None}, "must be Tolerance(absolute, relative)"),
        ({32: LOW}, "values of the param precision"),
        (Tolerance(-1e-5), "finite and not negative"),
        (Tolerance(0.0, float("nan")), "finite and not negative"),
        (Tolerance("1e-5"), "finite and not negative"),
    ],
)
def test_what_cannot_be_meant_is_refused(declared, said):
    class Odd(Tool):
        tolerance = declared

        def read(self, job): ...
        def run(self, items): ...
        def write(self, job, results): ...

    problem = why_unusable(Odd)
    assert problem is not None and problem.startswith(f"Odd: tolerance is {declared!r}; ")
    assert said in problem


@pytest.mark.parametrize("declared", [None, LOW, {}, {"fp32": LOW, "bf16": Tolerance(0, 1)}])
def test_what_can_be_meant_is_taken(declared):
    class Fine(Tool):
        tolerance = declared

        def read(self, job): ...
        def run(self, items): ...
        def write(self, job, results): ...

    assert why_unusable(Fine) is None
