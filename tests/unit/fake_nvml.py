"""An NVML library object for the probe's port, which can fail in every way the real one does."""

from types import SimpleNamespace

NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, NO_DRIVER, NO_LIBRARY = 3, 4, 6, 9, 12
LOST, RESET_REQUIRED, MISMATCH, UNKNOWN = 15, 16, 18, 999
MIB = 2**20


class FakeNvmlError(Exception):
    def __init__(self, value):
        super().__init__(f"NVML error {value}")
        self.value = value


class FakeCard:
    """A card, or a MIG slice; ``error`` is what every look at it gives."""

    def __init__(self, uuid, name="A100", total_mib=81920, mode=0, slices=None, error=None):
        self.uuid = uuid
        self.name = name
        self.total_mib = total_mib
        self.mode = mode
        self.slices = slices
        self.error = error
        self.used_mib = 500
        self.pids = {}  # MiB of each process; None: not told
        self.energy_mj = 0  # None: not counted


class FakeNvml:
    """An NVML library object: what the probe takes as its port."""

    NVMLError = FakeNvmlError

    def __init__(self, *cards, start_errors=()):
        self.cards = list(cards)
        self.start_errors = list(start_errors)
        self.inits = 0

    def _fail(self, value):
        raise self.NVMLError(value)

    def _alive(self, card):
        if card.error:
            self._fail(card.error)
        return card

    def nvmlInit(self):  # noqa: N802
        self.inits += 1
        if self.start_errors:
            self._fail(self.start_errors.pop(0))

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return self._alive(self.cards[index])

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        every = [part for card in self.cards for part in [card, *(card.slices or [])]]
        for card in every:
            if card.uuid == uuid:
                return self._alive(card)
        return self._fail(NOT_FOUND)

    def nvmlDeviceGetUUID(self, card):  # noqa: N802
        return self._alive(card).uuid

    def nvmlDeviceGetName(self, card):  # noqa: N802
        return card.name.encode()  # older bindings give bytes

    def nvmlDeviceGetMemoryInfo(self, card):  # noqa: N802
        if card.total_mib is None:
            self._fail(NOT_SUPPORTED)
        return SimpleNamespace(
            total=self._alive(card).total_mib * MIB, used=card.used_mib * MIB, free=0
        )

    def nvmlDeviceGetComputeMode(self, card):  # noqa: N802
        return card.mode

    def nvmlDeviceGetMigMode(self, card):  # noqa: N802
        if card.slices is None:
            self._fail(NOT_SUPPORTED)
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, card):  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card, index):  # noqa: N802
        # Only every other number is taken, as after some slices were destroyed.
        if index % 2 or index // 2 >= len(card.slices):
            self._fail(NOT_FOUND)
        return card.slices[index // 2]

    def nvmlDeviceGetComputeRunningProcesses(self, card):  # noqa: N802
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib * MIB)
            for pid, mib in self._alive(card).pids.items()
        ]

    def nvmlDeviceGetTotalEnergyConsumption(self, card):  # noqa: N802
        if self._alive(card).energy_mj is None:
            self._fail(NOT_SUPPORTED)
        return card.energy_mj

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return b"550.54"
