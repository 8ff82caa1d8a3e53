"""AMD's cards, on trees of sysfs as real machines have published them (D2, D3, D12, S7).

The numbers are those of the listings; of each file only the lines that count are here. Nothing of
this was ever run on such a card.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from snakemake_executor_gpupool.devices.card_wish import CardWish
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.device_spec import gpus
from snakemake_executor_gpupool.devices.kinds import KINDS, tool_device
from snakemake_executor_gpupool.devices.kinds.rocm import RocmKind
from snakemake_executor_gpupool.devices.probe import Machine, probe
from snakemake_executor_gpupool.devices.visibility import visible_env
from snakemake_executor_gpupool.errors import DeviceLost

GIB = 2**30
#: gpu_id, simd_count, gfx_target_version, device_id, location_id, render minor, unique_id, memory
Row = tuple[int, int, int, int, int, int, int, int]
#: A server with eight MI210: the order of the nodes is not that of the bus.
MI210: list[Row] = [
    (51140 + n, 416, 90010, 29711, place, 128 + n, unique_id, 64 * GIB - 16 * 2**20)
    for n, (place, unique_id) in enumerate(
        [
            (25344, 1801979520617338022),
            (17152, 5847760019078012339),
            (768, 10645161697164847644),
            (9728, 4847253685048710349),
            (58112, 12585367064092601175),
            (49920, 11779194899033552202),
            (33536, 17888023871577450191),
            (41728, 14073402507705256557),
        ]
    )
]
#: Two MI308X, each in four partitions, which share the unique id of their card.
MI308: list[Row] = [
    (24248, 80, 90402, 29858, 2560, 128, 598046273873802902, 51539607552),
    (41657, 80, 90402, 29858, 2561, 129, 598046273873802902, 51539607552),
    (59065, 80, 90402, 29858, 2562, 130, 598046273873802902, 51539607552),
    (2236, 80, 90402, 29858, 2563, 131, 598046273873802902, 51522830336),
    (22879, 80, 90402, 29858, 32768, 136, 11803749423592941193, 51539607552),
    (42334, 80, 90402, 29858, 32769, 137, 11803749423592941193, 51539607552),
    (57694, 80, 90402, 29858, 32770, 138, 11803749423592941193, 51539607552),
    (3931, 80, 90402, 29858, 32771, 139, 11803749423592941193, 51522830336),
]
#: A desktop: a Radeon RX 7900 XTX, and the graphics of a Ryzen processor before it.
DESKTOP: list[Row] = [
    (5567, 4, 100306, 5710, 6912, 128, 0, 512 * 2**20),
    (63210, 192, 110000, 29772, 768, 129, 8293214214211435612, 24560 * 2**20),
]


class Tree(Machine):
    """This machine, with another's sysfs."""

    def __init__(self, root: Path, rows: list[Row], cpus: int = 2) -> None:
        super().__init__(sleep=lambda delay_s: None)
        self.root = root
        for number in range(cpus):
            self.node(number, 0, {"cpu_cores_count": 64, "simd_count": 0})
        for number, row in enumerate(rows, cpus):
            gpu_id, simds, version, device, place, minor, unique_id, size = row
            node = self.node(
                number,
                gpu_id,
                {"cpu_cores_count": 0, "simd_count": simds, "simd_per_cu": 4 if simds > 200 else 2}
                | {"gfx_target_version": version, "device_id": device, "location_id": place}
                | {"domain": 0, "drm_render_minor": minor, "unique_id": unique_id},
            )
            bank = f"heap_type 1\nsize_in_bytes {size}\nflags 0\nwidth 4096\n"
            self.write(f"{node}/mem_banks/0/properties", bank)
            if place % 8 == 0:  # a further partition has no files of its card's
                card = f"/sys/class/drm/renderD{minor}/device"
                whole = 4 * size if rows is MI308 else size
                self.write(f"{card}/mem_info_vram_total", f"{whole}\n")
                self.write(f"{card}/mem_info_vram_used", f"{27 * 2**20}\n")
                self.write(f"{card}/revision", "0xc8\n" if rows is DESKTOP else "0x02\n")
                self.write(f"{card}/product_name", "\n")

    def node(self, number: int, gpu_id: int, properties: Mapping[str, int]) -> str:
        path = f"/sys/class/kfd/kfd/topology/nodes/{number}"
        self.write(f"{path}/gpu_id", f"{gpu_id}\n")
        self.write(f"{path}/properties", "".join(f"{k} {v}\n" for k, v in properties.items()))
        return path

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def remove(self, path: str) -> None:
        (self.root / path.lstrip("/")).unlink()

    def read_text(self, path: str) -> str | None:
        return super().read_text(str(self.root / path.lstrip("/")))

    def list_directory(self, path: str) -> tuple[str, ...]:
        return super().list_directory(str(self.root / path.lstrip("/")))


def found(tree: Tree, **env: str) -> list[str]:
    """Each device's name, and by which number HIP shows it."""
    return [f"{d.name}={d.visible_id}" for d in RocmKind().find(env, tree).devices]


def test_cards_are_found_with_name_memory_and_identity(tmp_path: Path) -> None:  # D2
    tree = Tree(tmp_path, MI210)
    result = RocmKind().find({}, tree)
    assert [device.name for device in result.devices] == [f"rocm:{n}" for n in range(8)]
    assert not result.warnings and not result.why_none
    third = result.devices[2]
    assert third.uuid == "GPU-93bb3629c01aea1c" == f"GPU-{10645161697164847644:016x}"
    assert (third.memory_mib, third.model_name, third.kind) == (65520, "AMD Instinct MI210", "rocm")
    assert tool_device(result.devices[3:5]) == "cuda:0,cuda:1", "as torch calls them"
    assert gpus(1, CardWish(("mi210",), ("amd",))).accepts(third)
    assert not gpus(1, CardWish((), ("nvidia",))).accepts(third)


def test_names_of_cards(tmp_path: Path) -> None:
    tree = Tree(tmp_path, DESKTOP, cpus=1)

    def name() -> str:
        return RocmKind().find({}, tree).devices[0].model_name

    assert name() == "AMD GPU gfx1100"
    tree.write("/sys/class/drm/renderD129/device/product_name", "Radeon RX 7900 XTX\n")
    assert name() == "AMD Radeon RX 7900 XTX"
    ids = "1.0.0\n744C,\tC4,\tAMD Radeon RX 7900 XT\n744C,\tC8,\tAMD Radeon RX 7900 XTX OC\n"
    tree.write("/usr/share/libdrm/amdgpu.ids", ids)
    assert name() == "AMD Radeon RX 7900 XTX OC", "as ROCm itself calls it"


def test_the_graphics_of_a_processor_keep_their_number_and_are_not_used(tmp_path: Path) -> None:
    result = RocmKind().find({}, Tree(tmp_path, DESKTOP, cpus=1))
    assert [(d.name, d.visible_id) for d in result.devices] == [("rocm:1", "1")]
    assert "rocm:0 is not used: it has 2 compute units" in result.warnings[0]


def test_partitions_are_devices_of_their_own(tmp_path: Path) -> None:
    tree = Tree(tmp_path, MI308)
    devices = RocmKind().find({}, tree).devices
    assert len({device.uuid for device in devices}) == 8, "their locks differ"
    assert {device.memory_mib for device in devices} == {49152, 49136}
    kind = RocmKind()
    tree.write("/sys/class/kfd/kfd/proc/4711/vram_24248", f"{3 * GIB}\n")
    tree.write("/sys/class/kfd/kfd/proc/4711/vram_41657", "0\n")
    assert kind.memory_used_mib(devices[0], tree) == 3072, "not what its card has in use"
    assert kind.memory_used_mib(devices[1], tree) == 0
    # In a control group that shows one partition, it is the same device with the same memory.
    for node in range(3, 10):
        tree.remove(f"/sys/class/kfd/kfd/topology/nodes/{node}/gpu_id")
    (alone,) = kind.find({}, tree).devices
    assert (alone.uuid, alone.memory_mib) == (devices[0].uuid, 49152)
    assert kind.memory_used_mib(alone, tree) == 3072


def test_what_is_on_a_card(tmp_path: Path) -> None:  # D12
    tree, kind = Tree(tmp_path, MI210), RocmKind()
    first, second = kind.find({}, tree).devices[:2]
    assert (kind.memory_used_mib(first, tree), kind.memory_by_pid(first, tree)) == (27, {})
    tree.write("/sys/class/kfd/kfd/proc/77/vram_51140", f"{5 * GIB}\n")
    tree.write("/sys/class/kfd/kfd/proc/77/vram_51141", "0\n")
    assert kind.memory_by_pid(first, tree) == {77: 5120}
    assert kind.memory_by_pid(second, tree) == {}
    tree.remove("/sys/class/kfd/kfd/topology/nodes/2/gpu_id")
    with pytest.raises(DeviceLost, match="rocm:0"):
        kind.memory_used_mib(first, tree)
    tree.write("/proc/sys/kernel/osrelease", "6.8.0-31-generic\n")
    assert kind.driver(tree) == "amdgpu 6.8.0-31-generic"
    tree.write("/sys/module/amdgpu/version", "6.7.0\n")
    assert kind.driver(tree) == "amdgpu 6.7.0"


@pytest.mark.parametrize(
    ("env", "devices"),
    [
        ({"HIP_VISIBLE_DEVICES": "3,1"}, "rocm:0=3 rocm:1=1"),
        ({"HIP_VISIBLE_DEVICES": "1,1,2"}, "rocm:0=1 rocm:1=2"),
        ({"HIP_VISIBLE_DEVICES": "GPU-93bb3629c01aea1c"}, "rocm:0=2"),
        ({"HIP_VISIBLE_DEVICES": "2", "CUDA_VISIBLE_DEVICES": "5,6"}, "rocm:0=2"),
        ({"CUDA_VISIBLE_DEVICES": "5,6"}, "rocm:0=5 rocm:1=6"),
        ({"HIP_VISIBLE_DEVICES": "", "CUDA_VISIBLE_DEVICES": "5"}, "rocm:0=5"),
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": ""}, "rocm:0=1"),
        ({"HIP_VISIBLE_DEVICES": "0,8,1"}, "rocm:0=0"),
        ({"HIP_VISIBLE_DEVICES": "0, 1"}, "rocm:0=0"),
        ({"HIP_VISIBLE_DEVICES": "-1"}, ""),
        ({"HIP_VISIBLE_DEVICES": ""}, ""),
        ({"CUDA_VISIBLE_DEVICES": ""}, ""),
        ({"ROCR_VISIBLE_DEVICES": ""}, ""),
        # Within what the runtime below leaves, counted anew.
        ({"ROCR_VISIBLE_DEVICES": "4,5,6"}, "rocm:0=0 rocm:1=1 rocm:2=2"),
        ({"ROCR_VISIBLE_DEVICES": "4,5,6", "HIP_VISIBLE_DEVICES": "2"}, "rocm:0=2"),
        ({"ROCR_VISIBLE_DEVICES": "4,5", "HIP_VISIBLE_DEVICES": "4"}, ""),
        ({"ROCR_VISIBLE_DEVICES": "7, gpu-1901EAD3"}, "rocm:0=0 rocm:1=1"),
        ({"ROCR_VISIBLE_DEVICES": "1,1,2"}, "rocm:0=0"),
        ({"ROCR_VISIBLE_DEVICES": "0x2,99,1"}, "rocm:0=0"),
    ],
)
def test_the_variables_that_the_user_has_set_count_as_for_rocm(
    tmp_path: Path, env: dict[str, str], devices: str
) -> None:  # D2
    tree = Tree(tmp_path, MI210)
    assert " ".join(found(tree, **env)) == devices
    result = RocmKind().find(env, tree)
    assert bool(result.why_none) == (not devices)


def test_the_lower_variable_chooses_the_cards_themselves(tmp_path: Path) -> None:
    chosen = RocmKind().find({"ROCR_VISIBLE_DEVICES": "7,2"}, Tree(tmp_path, MI210)).devices
    assert [card.uuid for card in chosen] == [f"GPU-{MI210[n][6]:016x}" for n in (7, 2)]


def test_a_job_sees_its_cards_by_one_variable(tmp_path: Path) -> None:  # S7
    """What it then sees, by ROCm's rules, is what it was given; whatever the user had set."""
    tree = Tree(tmp_path, MI210)
    for env in (
        {},
        {"ROCR_VISIBLE_DEVICES": "6,5,4,3"},
        {"CUDA_VISIBLE_DEVICES": "2,3,4,5"},
        {"ROCR_VISIBLE_DEVICES": "7,6,5,4", "HIP_VISIBLE_DEVICES": "3,1"},
    ):
        cards = RocmKind().find(env, tree).devices
        for given in ([cards[1]], list(cards[:2])):
            shown = visible_env(given)
            assert shown["CUDA_VISIBLE_DEVICES"] == "", "NVIDIA's cards are hidden"
            assert "ROCR_VISIBLE_DEVICES" not in shown, "it would select twice"
            seen = RocmKind().find({**env, **shown}, tree).devices
            assert [card.uuid for card in seen] == [card.uuid for card in given]
        assert found(tree, **{**env, **visible_env([])}) == []
    nvidia = visible_env([Device("cuda:1", "cuda", 1, visible_id="1")])
    assert nvidia["HIP_VISIBLE_DEVICES"] == "-1" and nvidia["ROCR_VISIBLE_DEVICES"] == ""
    assert found(tree, **nvidia) == []


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rows", [MI210, MI308, DESKTOP], ids=["MI210", "MI308", "desktop"])
def test_files_that_are_missing_or_damaged(tmp_path: Path, rows: list[Row], seed: int) -> None:
    """As in containers that hide a part, and under other drivers: no card is taken for another."""
    tree, kind, chance = Tree(tmp_path, rows, cpus=1), RocmKind(), random.Random(seed)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for path in chance.sample(files, len(files) // 3):
        text = path.read_text()
        how = chance.choice(["gone", "empty", "directory", "garbage", "cut", "lines"])
        path.unlink()
        if how == "directory":
            path.mkdir()
        elif how == "garbage":
            path.write_bytes(chance.randbytes(40))
        elif how != "gone":
            lines = text.splitlines(keepends=True)
            left = {"empty": "", "cut": text[: len(text) // 2]}
            path.write_text(left.get(how, "".join(chance.sample(lines, (len(lines) + 1) // 2))))
    cards = kind.find({}, tree).devices
    assert len({card.uuid for card in cards}) == len({c.visible_id for c in cards}) == len(cards)
    for card in cards:
        kind.memory_used_mib(card, tree)
        kind.memory_by_pid(card, tree)


def test_a_machine_without_amd_cards(tmp_path: Path) -> None:  # D12
    nothing = RocmKind().find({}, Tree(tmp_path / "none", [], cpus=0))
    assert nothing == type(nothing)(())
    no_card = RocmKind().find({}, Tree(tmp_path / "cpus", []))
    assert no_card.why_none == "AMD's driver lists no card that this process may use"
    assert KINDS["rocm"].tool_word == "cuda"
    assert all(device.kind != "rocm" for device in probe({"CUDA_VISIBLE_DEVICES": ""}).devices)
