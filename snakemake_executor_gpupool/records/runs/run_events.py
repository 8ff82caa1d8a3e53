"""What events say of a run itself: its start, its end, its devices, warnings."""

from __future__ import annotations

from typing import Any

from snakemake_executor_gpupool.records.runs.fields import (
    Event,
    names,
    number,
    texts,
    whole_or_none,
)
from snakemake_executor_gpupool.records.runs.states import Mark, RunState
from snakemake_executor_gpupool.records.runs.values import DeviceView, RunView


class RunEvents:
    """Takes them into a view; called with an event and its time."""

    def __init__(self, run: RunView) -> None:
        self.run = run
        #: Of the lines, as the run says.
        self.format = 1

    def _on_run_started(self, event: Event, now_s: float) -> None:
        run = self.run
        run.started_at_s = now_s
        run.simulated = bool(event.get("simulated"))
        self.format = int(event.get("format", 1))
        for name in names(event["devices"]):
            run.devices[name] = DeviceView(name, _kind_of(name), simulated=run.simulated)
        for each in event.get("device_info", ()):
            name = str(each["name"])
            run.devices[name] = DeviceView(
                name=name,
                kind=str(each.get("kind") or ""),
                model=str(each.get("model") or ""),
                memory_mib=whole_or_none(each.get("memory_mib")),
                uuid=str(each.get("uuid") or ""),
                node=str(each.get("node") or ""),
                simulated=bool(each.get("simulated")),
            )
        for name in ("frontend", "host", "cwd", "driver"):
            setattr(run, name, str(event.get(name) or ""))
        run.pid = whole_or_none(event.get("pid"))
        run.options = dict(event.get("options") or {})
        run.versions = texts(event.get("versions"))

    def _on_run_ended(self, event: Event, now_s: float) -> None:
        self.run.ended_at_s = now_s
        if self.run.state is not RunState.BROKEN:
            self.run.state = RunState.ENDED
        for name, energy_j in (event.get("energy_j") or {}).items():
            if name in self.run.devices:
                self.run.devices[name].energy_j = number(energy_j)

    def _on_pool_failed(self, event: Event, now_s: float) -> None:
        self.run.state, self.run.error = RunState.BROKEN, str(event["error"])
        self._mark(now_s, "pool_failed", self.run.error)

    def _mark(self, now_s: float, kind: str, text: str, devices: Any = ()) -> None:
        self.run.marks.append(Mark(now_s, kind, text, names(devices)))

    def _on_merge_decided(self, event: Event, now_s: float) -> None:
        self._mark(now_s, "merge_decided", f"{event['model']}: {event['why']}")

    def _on_remark(self, event: Event, now_s: float) -> None:
        self._mark(now_s, "remark", str(event["text"]))

    def _on_store_trouble(self, event: Event, now_s: float) -> None:
        self._mark(now_s, "store_trouble", f"{event['kind']}: {event['why']}")

    def _on_device_refused(self, event: Event, now_s: float) -> None:
        self._mark(now_s, "device_refused", str(event["why"]), [event["device"]])

    def _on_device_given_back(self, event: Event, now_s: float) -> None:
        text = f"{event['device']} is free again"
        self._mark(now_s, "device_given_back", text, [event["device"]])

    def _on_devices_joined(self, event: Event, now_s: float) -> None:
        for name in names(event["devices"]):
            node = name.rpartition("/")[0]
            self.run.devices.setdefault(name, DeviceView(name, _kind_of(name), node=node))
        text = f"joined: {', '.join(names(event['devices']))}"
        self._mark(now_s, "devices_joined", text, event["devices"])

    def _on_devices_left(self, event: Event, now_s: float) -> None:
        text = f"left: {', '.join(names(event['devices']))}: {event['why']}"
        self._mark(now_s, "devices_left", text, event["devices"])

    def _on_model_failed(self, event: Event, now_s: float) -> None:
        self._mark(now_s, "model_failed", f"{event['model']}: {event['error']}")


def _kind_of(name: str) -> str:
    """Return the kind of a device of which no more than its name is known."""
    return name.rpartition("/")[2].partition(":")[0]
