"""How a server is."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from snakemake_executor_gpupool import __version__

if TYPE_CHECKING:
    from snakemake_executor_gpupool.frontends.server.service import Service


async def status_of(service: Service) -> dict[str, Any]:
    """Return how a server is, as ``gpupool serve --status`` has it."""
    pool = service.pool
    models = await asyncio.to_thread(pool.allocation_map)
    summary = await asyncio.to_thread(pool.summary)
    now_s = time.monotonic()
    return {
        "type": "status",
        "pid": os.getpid(),
        "version": __version__,
        "up_s": round(now_s - service.started_s, 1),
        "idle_s": 0.0 if service.clients else round(now_s - service.used_s, 1),
        "jobs": {"running": service.clients, "done": service.done, "failed": service.failed},
        "tools": sorted({str(place.ref) for place in service.workplaces if not place.is_retired}),
        "devices": models,
        "loads": summary["model_loads"],
        "files": str(pool.paths.directory),
    }
