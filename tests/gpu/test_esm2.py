"""esm2-embed on a GPU: the same numbers as on the CPU, and memory that is given back."""

import pytest
import torch

from snakemake_executor_gpupool.tools import esm2_checkpoints
from tests.integration import esm2_cases as cases

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

#: Rounding of float32 sums done in another order, on another kind of device.
NOISE = 1e-4
#: What libraries keep for themselves on a device once they have computed on it.
WORKSPACE_BYTES = 80 << 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return esm2_checkpoints.write_seeded_checkpoint(
        str(tmp_path_factory.mktemp("weights")), 12, 480, 20
    )


@pytest.fixture
def on_gpu(checkpoint):
    tool = cases.loaded(checkpoint, "cuda:0")
    yield tool
    tool.to("cpu")


@pytest.mark.parametrize("pool", ["mean", "per_token"])
def test_the_same_numbers_as_on_the_cpu(checkpoint, on_gpu, pool):
    items = cases.proteins()
    asked = {"pool": pool, "layers": [0, 6, 12], "contacts": True}
    expected = cases.embed(cases.loaded(checkpoint), items, **asked)
    for one, other in zip(cases.embed(on_gpu, items, **asked), expected, strict=True):
        assert list(one) == list(other)
        for label, array in one.items():
            assert cases.largest_difference(array, other[label]) <= NOISE


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_points_the_same_way(checkpoint, on_gpu, precision):
    low = cases.loaded(checkpoint, "cuda:0", precision=precision)
    items = cases.proteins([64, 300])
    for one, other in zip(low.run(items), on_gpu.run(items), strict=True):
        a, b = (torch.from_numpy(result["layer12"]) for result in (one, other))
        assert torch.cosine_similarity(a, b, dim=0) >= 0.999


def test_moving_to_the_cpu_frees_the_device_and_back_computes_the_same(on_gpu):
    items = cases.proteins([1000] * 16)
    before = on_gpu.run(items)
    on_gpu.to("cpu")
    assert torch.cuda.memory_reserved() <= WORKSPACE_BYTES
    on_gpu.to("cuda:0")
    for one, other in zip(on_gpu.run(items), before, strict=True):
        assert cases.largest_difference(one["layer12"], other["layer12"]) <= NOISE
