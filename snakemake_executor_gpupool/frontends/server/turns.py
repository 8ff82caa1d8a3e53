"""Cold jobs that a server was to do take turns: as many at a time as the pool has devices.

Where no server can be reached, all of an engine's tasks that wait would load their models at once,
and with them fill the machine's memory. A turn is a locked file of the user's, let go when the
process ends, however it does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

from snakemake_executor_gpupool.devices.cores import available_cores, choose_devices
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.kinds import computes_on_cpu, is_gpu
from snakemake_executor_gpupool.devices.probe import probe
from snakemake_executor_gpupool.devices.settings import resolve
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.server.address import make_directory
from snakemake_executor_gpupool.frontends.server.local_files import is_locked

#: How often a waiting job looks again.
LOOK_S = 0.1
#: Turns of this process; nothing but its end closes them.
_TAKEN: list[int] = []


def take_turn(
    device: str | None, directory: str, say: Callable[[str], None], env: Mapping[str, str]
) -> None:
    """Wait until a cold job may begin; it is over when this process is.

    Parameters
    ----------
    device
        What the job asks for; None: the first that its tool can use.
    directory
        Of the turns, which are those of all that name it.
    say
        Takes a line that says what is waited for.
    """
    try:
        settings = resolve(env)
        devices = choose_devices(settings, probe(env), available_cores())
    except ConfigError:
        devices = ()  # the job itself says what is wrong
    try:
        make_directory(directory)
        for names in turns_of(device, devices):
            _TAKEN.append(_one_of(names, directory, say))
    except (OSError, ConfigError) as error:
        say(f"cold jobs cannot take turns ({error}), this one begins at once")


def turns_of(device: str | None, devices: Sequence[Device]) -> list[list[str]]:
    """Return what a job needs: of each list one turn.

    Parameters
    ----------
    devices
        Those that a pool would have.
    """
    has_gpu = any(is_gpu(each) and not each.simulated for each in devices)
    if device is None:
        device = "cuda:0" if has_gpu else "cpu"
    if device != "cpu":
        return [[name] for name in sorted(set(device.split(",")))]
    slots = sum(map(computes_on_cpu, devices)) or 1
    return [[f"cpu:{slot}" for slot in range(slots)]]


def _one_of(names: Sequence[str], directory: str, say: Callable[[str], None]) -> int:
    """Wait for one of the turns; return the descriptor that holds it.

    Raises
    ------
    OSError
        Files cannot be made or locked.
    """
    is_said = False
    while True:
        for name in names:
            lock = os.open(
                os.path.join(directory, name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600
            )
            try:
                if is_locked(lock):
                    return lock
            except OSError:
                os.close(lock)
                raise
            os.close(lock)
        if not is_said:
            is_said = True
            kind = names[0].partition(":")[0] if len(names) > 1 else names[0]
            say(f"it waits for its turn: {len(names)} cold at a time on {kind}")
        time.sleep(LOOK_S)
