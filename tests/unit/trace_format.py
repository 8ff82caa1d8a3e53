"""What Chrome's "Trace Event Format" asks of a file, as far as it documents it.

From the format's public description: a JSON object with ``traceEvents``; each event has a phase,
and each phase the fields that it needs. Reviewers of traces also want what it says of binding:
slices of one thread nest, and a flow's events lie within slices.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

PHASES = set("BEXIiCbneSTFsftMPNODvRcC(")
METADATA = {
    "process_name": str,
    "process_labels": str,
    "process_sort_index": int,
    "thread_name": str,
    "thread_sort_index": int,
}
EPSILON_US = 0.01


def problems(trace: Any) -> list[str]:
    """Return what is wrong with a trace; empty: it is as the format has it."""
    if not isinstance(trace, dict) or not isinstance(trace.get("traceEvents"), list):
        return ["it is no object with a list of traceEvents"]
    if trace.get("displayTimeUnit", "ms") not in ("ms", "ns"):
        return ["displayTimeUnit is neither ms nor ns"]
    found = []
    for number, event in enumerate(trace["traceEvents"]):
        found += [f"event {number}: {each}: {event}" for each in of_event(event)]
    return found or [*of_slices(trace["traceEvents"]), *of_flows(trace["traceEvents"])]


def of_event(event: Any) -> list[str]:  # noqa: C901, PLR0912 - a rule a branch
    """Return what is wrong with one event by itself."""
    if not isinstance(event, dict) or event.get("ph") not in PHASES:
        return ["no phase"]
    phase, found = event["ph"], []
    if not isinstance(event.get("name"), str) or not event["name"]:
        found.append("no name")
    if not all(type(event.get(name)) is int for name in ("pid", "tid")):
        found.append("pid and tid are whole numbers")
    if phase != "M" and not is_number(event.get("ts")):
        found.append("no ts")
    if not isinstance(event.get("args", {}), dict):
        found.append("args is no object")
    if phase == "X" and not (is_number(event.get("dur")) and event["dur"] >= 0):
        found.append("a complete event has a dur that is not negative")
    if phase == "i" and event.get("s", "t") not in ("g", "p", "t"):
        found.append("the scope of an instant event is g, p or t")
    if phase == "C":
        series = event.get("args", {})
        if not series or not all(map(is_number, series.values())):
            found.append("a counter has numbers")
    if phase in "stf" and not isinstance(event.get("id"), (int, str)):
        found.append("a flow event has an id")
    if phase in "stf" and not isinstance(event.get("cat"), str):
        found.append("a flow event has a category")
    if phase == "M":
        kind = METADATA.get(event["name"])
        value = event.get("args", {}).get("sort_index" if kind is int else "name")
        if kind is None or type(value) is not kind:
            found.append("metadata names a process or thread, or sorts it")
    return found


def is_number(value: Any) -> bool:
    """Whether it is a number that JSON may hold."""
    return type(value) in (int, float) and math.isfinite(value)


def slices_of(events: list[Any]) -> dict[tuple[int, int], list[tuple[float, float]]]:
    """Return by thread when its slices begin and end."""
    found: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            place = event["pid"], event["tid"]
            found[place].append((event["ts"], event["ts"] + event["dur"]))
    return found


def of_slices(events: list[Any]) -> list[str]:
    """Slices of one thread lie in one another, or apart."""
    found = []
    for place, slices in slices_of(events).items():
        ends: list[float] = []
        for start, end in sorted(slices, key=lambda each: (each[0], -each[1])):
            while ends and ends[-1] <= start + EPSILON_US:
                ends.pop()
            if ends and end > ends[-1] + EPSILON_US:
                found.append(f"slices of {place} overlap at {start}")
            ends.append(end)
    return found


def of_flows(events: list[Any]) -> list[str]:
    """A flow begins once, goes on, ends once, in order of time, and always within a slice."""
    slices, flows, found = slices_of(events), defaultdict(list), []
    for event in events:
        if event["ph"] in "stf":
            flows[event["cat"], event["name"], event["id"]].append(event)
            at, place = event["ts"], (event["pid"], event["tid"])
            if not any(s - EPSILON_US <= at <= e + EPSILON_US for s, e in slices[place]):
                found.append(f"a flow event lies in no slice: {event}")
    for key, steps in flows.items():
        phases = "".join(each["ph"] for each in steps)
        if phases != "s" + "t" * (len(steps) - 2) + "f":
            found.append(f"flow {key} is {phases}")
        times = [each["ts"] for each in steps]
        if times != sorted(times):
            found.append(f"flow {key} goes back in time")
    return found
