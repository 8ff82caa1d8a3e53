"""What a report says, against counts over the lines of ``events.jsonl``."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from typing import Any

import pytest

from tests.report.conftest import Made, Reports
from tests.report.synthetic import HEAD_MODEL, MODEL, lines_of

UNITS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """A duration as the page writes it, in seconds."""
    pairs = re.findall(r"([\d.\s\u202f]+?)\s*(µs|ms|min|h|s)\b", text)
    assert pairs, text
    return sum(float(re.sub(r"[\s\u202f]", "", number)) * UNITS[unit] for number, unit in pairs)


def number(text: str) -> float:
    return float(re.sub(r"[\s\u202f]", "", re.search(r"[\d\u202f.]+", text)[0]))


def row(page: Any, section: str, name: str) -> dict[str, str]:
    """A row of a section's first table that begins with a name, by its columns' heads."""
    table = page.locator(f"#{section} table").first
    heads = table.locator("thead th").all_inner_texts()
    cells = table.locator("tbody tr", has=page.get_by_text(name, exact=True)).first.locator("td")
    return dict(zip(heads, cells.all_inner_texts(), strict=True))


def tile(page: Any, name: str) -> str:
    return page.locator(".tile", has_text=name).first.inner_text()


def listed(page: Any, title: str) -> dict[str, str]:
    """The names and values of a list of facts below a title."""
    found = page.locator("h2, h3", has_text=title).last.locator("xpath=following-sibling::dl[1]")
    return dict(
        zip(
            found.locator("dt").all_inner_texts(),
            found.locator("dd").all_inner_texts(),
            strict=True,
        )
    )


@pytest.fixture(scope="module")
def page(browser: Any, small: Made) -> Any:
    reports = Reports(browser)
    opened = reports.open(small.report)
    yield opened.page
    reports.close()


def test_how_long_and_against_what(page: Any, small: Made) -> None:  # R2
    (end,) = lines_of(small.directory, "run_ended")
    assert seconds(page.locator(".headline .figure").inner_text()) == pytest.approx(
        end["wall_s"], rel=0.01
    )
    done = list(lines_of(small.directory, "job_done"))
    imports = defaultdict(list)
    tools = {e["worker"]: e["tool"] for e in lines_of(small.directory, "worker_started")}
    begun = {e["worker"]: e["time_s"] for e in lines_of(small.directory, "worker_started")}
    for event in lines_of(small.directory, "tool_imported"):
        took = event["time_s"] - begun[event["worker"]]
        imports[tools[event["worker"]]].append(took)
    loads = defaultdict(list)
    for event in lines_of(small.directory, "model_loaded"):
        loads[event["model"]].append(event["seconds"])
    embed = [e for e in done if e["job"].startswith("rule embed")]
    compute = sum(e["device_s"] + e.get("saved_s", 0.0) for e in done)
    each = statistics.median(imports["esm2-embed"])
    expected = (len(embed) * (each + statistics.median(loads[MODEL])) + each + compute) / 4
    shown = page.locator(".compare .number").last.inner_text()
    assert seconds(shown) == pytest.approx(expected, rel=0.01)
    started = {e["worker"]: e for e in lines_of(small.directory, "worker_started") if e["devices"]}
    took = sum(e["seconds"] for e in lines_of(small.directory, "batch_done"))
    took += sum(e["seconds"] for e in lines_of(small.directory, "model_loaded"))
    for event in lines_of(small.directory, "tool_imported"):
        if event["worker"] in started:
            took += event["time_s"] - started[event["worker"]]["time_s"]
    own = page.locator(".compare .number").first.inner_text()
    assert seconds(own) == pytest.approx(took / 4, rel=0.01)
    page.get_by_text("How it is estimated").click()
    assert "(import + load) + inference" in page.locator("#overview").inner_text()


def test_jobs_of_each_rule(page: Any, small: Made) -> None:
    done = Counter(e["job"].split()[1] for e in lines_of(small.directory, "job_done"))
    failed = Counter(e["job"].split()[1] for e in lines_of(small.directory, "job_failed"))
    shown = row(page, "rules", "embed")
    assert number(shown["Finished"]) == done["embed"] == 57
    assert number(shown["Failed"]) == failed["embed"] == 3
    device_s = [
        e["device_s"]
        for kind in ("job_done", "job_failed")
        for e in lines_of(small.directory, kind)
        if e["job"].startswith("rule embed")
    ]
    assert seconds(shown["Device time"]) == pytest.approx(sum(device_s), rel=0.01)
    assert seconds(shown["A job, median"]) == pytest.approx(statistics.median(device_s), rel=0.01)
    assert seconds(shown["A job, most"]) == pytest.approx(max(device_s), rel=0.01)
    assert number(shown["Over time"]) == 1
    train = row(page, "rules", "train")
    assert (number(train["Finished"]), number(train["Cut off"])) == (1, 1)
    assert seconds(train["Device time"]) == pytest.approx(2.0)


def test_models(page: Any, small: Made) -> None:
    table = page.locator("#rules table").nth(1)
    heads = table.locator("thead th").all_inner_texts()
    cells = table.locator("tbody tr").first.locator("td").all_inner_texts()
    shown = dict(zip(heads, cells, strict=True))
    sent = {e["batch"]: e for e in lines_of(small.directory, "batch_sent")}
    done = [e for e in lines_of(small.directory, "batch_done") if e["worker"].startswith(MODEL)]
    took = sum(e["seconds"] for e in done)
    tokens = sum(sent[e["batch"]]["tokens"] for e in done)
    padded = sum(sent[e["batch"]]["padded_tokens"] for e in done)
    assert number(shown["Batches"]) == len(done)
    assert number(shown["Items"]) == sum(e["items"] for e in done)
    assert seconds(shown["Computing"]) == pytest.approx(took, rel=0.01)
    assert number(shown["Tokens/s"]) == pytest.approx(tokens / took, rel=0.01)
    assert number(shown["Padding"]) == pytest.approx(100 * (1 - tokens / padded), abs=0.6)
    assert "1 died" in shown["Workers"]


def test_where_the_time_of_devices_went(page: Any, small: Made) -> None:
    table = page.locator("#rules table").nth(2)
    heads = table.locator("thead th").all_inner_texts()
    rows = {
        cells[0]: dict(zip(heads, cells, strict=True))
        for cells in (
            row.locator("th, td").all_inner_texts()
            for row in table.locator("tbody tr, tfoot tr").all()
        )
    }
    done = list(lines_of(small.directory, "batch_done"))
    charged = sum(sum(e["device_s"]) for e in done)
    claimed = sum(
        e["device_s"] for e in lines_of(small.directory, "job_done") if "score" in e["job"]
    )
    shown = rows["All devices"]
    assert seconds(shown["Computing for jobs"]) == pytest.approx(charged + claimed, rel=0.01)
    loads = sum(e["seconds"] for e in lines_of(small.directory, "model_loaded"))
    assert seconds(shown["Loading"]) == pytest.approx(loads, rel=0.01)
    assert seconds(rows["cuda:0"]["Plain GPU jobs"]) == pytest.approx(2.0)
    (end,) = lines_of(small.directory, "run_ended")
    for name, row in rows.items():
        if name.startswith("cuda"):
            whole = sum(seconds(text) for text in list(row.values())[2:] if len(text) > 1)
            assert whole == pytest.approx(end["wall_s"], rel=0.02)


def test_duplicates_and_merged_chains(page: Any, small: Made) -> None:
    ended = [e for kind in ("job_done", "job_failed") for e in lines_of(small.directory, kind)]
    duplicates = sum(e["duplicates"] for e in ended)
    saved = sum(e.get("saved_s", 0.0) for e in ended)
    text = page.locator("#savings").inner_text()
    assert f"{duplicates} of" in text
    assert seconds(re.search(r"taken (.*) of device time", text)[1]) == pytest.approx(
        saved, rel=0.01
    )
    assert f"{duplicates} duplicates" in tile(page, "Items")
    assert "query → score" in text


def test_failures_with_their_messages(page: Any, small: Made) -> None:
    text = page.locator("#failures").inner_text()
    assert "3 jobs failed" in text
    assert "proteins/x.fasta: record 3 has an empty sequence" in text
    for event in lines_of(small.directory, "job_failed"):
        assert event["job"].removeprefix("rule ") in text
    assert "killed by signal 9" in text


def test_options_versions_devices_drivers(page: Any) -> None:
    text = page.locator("#run").inner_text()
    for word in (
        "--gpupool-devices",
        "580.65.06",
        "NVIDIA A100-SXM4-80GB",
        "9.27.0",
        "torch",
        "80.0 GiB",
        "GPU-0000-0",
        "evicted (restart)",
        "no profile yet",
    ):
        assert word in text


def test_devices_are_busy_as_long_as_they_compute(page: Any, small: Made) -> None:
    (end,) = lines_of(small.directory, "run_ended")
    device = {e["worker"]: e["devices"] for e in lines_of(small.directory, "worker_started")}
    busy = sum(
        e["seconds"]
        for e in lines_of(small.directory, "batch_done")
        if device[e["worker"]] == ["cuda:1"]
    )
    label = page.locator(".label-row.device", has_text="cuda:1").inner_text()
    assert number(label.split("cuda:1")[1]) == pytest.approx(100 * busy / end["wall_s"], abs=0.6)


def test_a_job_has_its_own_page(page: Any, small: Made) -> None:  # R2
    job = next(e for e in lines_of(small.directory, "job_submitted") if e["job_id"] == 7)
    (ended,) = [
        e
        for kind in ("job_done", "job_failed")
        for e in lines_of(small.directory, kind)
        if e["job_id"] == 7
    ]
    batches = {e["batch"]: e["jobs"] for e in lines_of(small.directory, "batch_done")}
    own = {batch: set(jobs) - {7} for batch, jobs in batches.items() if 7 in jobs}
    page.goto(page.url.partition("#")[0] + "#job-7")
    page.wait_for_selector("#job-title")
    text = page.locator("#own").inner_text()
    for path in (*job["inputs"], *job["outputs"], *job["logs"]):
        assert path in text
    facts = listed(page, "What it took")
    assert seconds(facts["Device time"]) == pytest.approx(ended["device_s"], rel=0.01)
    assert number(facts["Items"]) == ended["items"]
    assert number(facts["Duplicates of others"]) == ended["duplicates"]
    assert facts["Peak memory"] == f"{ended['peak_mib'] / 1024:.2f} GiB"
    links = page.locator("#own table tbody a").all_inner_texts()
    assert links == [f"batch {batch}" for batch in own]
    company = set().union(*own.values())
    more = page.get_by_role("button", name="more")
    if more.count():
        more.click()
    shown = page.locator("#own .names").first.locator("a").all_inner_texts()
    titles = {e["job_id"]: e["job"] for e in lines_of(small.directory, "job_submitted")}
    assert set(shown) == {titles[other].removeprefix("rule ") for other in company}


def test_a_batch_says_what_it_held(page: Any, small: Made) -> None:  # R2
    sent = next(e for e in lines_of(small.directory, "batch_sent") if e["batch"] == 5)
    done = next(e for e in lines_of(small.directory, "batch_done") if e["batch"] == 5)
    page.goto(page.url.partition("#")[0] + "#batch-5")
    detail = page.locator("#detail")
    detail.get_by_text("Batch 5").wait_for()
    facts = dict(
        zip(
            detail.locator("dt").all_inner_texts(),
            detail.locator("dd").all_inner_texts(),
            strict=True,
        )
    )
    assert number(facts["Items"]) == sent["items"]
    assert number(facts["Tokens"]) == sent["tokens"]
    assert seconds(facts["Took"]) == pytest.approx(done["seconds"], rel=0.01)
    assert number(facts["Tokens a second"]) == pytest.approx(
        sent["tokens"] / done["seconds"], rel=0.01
    )
    padding = 100 * (1 - sent["tokens"] / sent["padded_tokens"])
    assert number(facts["Padding"]) == pytest.approx(padding, abs=0.1)
    shares = {
        text.split(")")[0] + ")": number(text.split(")")[1])
        for text in detail.locator(".names li").all_inner_texts()
    }
    titles = {
        e["job_id"]: e["job"].removeprefix("rule ")
        for e in lines_of(small.directory, "job_submitted")
    }
    whole = sum(done["device_s"])
    assert shares == {
        titles[job]: pytest.approx(100 * device_s / whole, abs=0.6)
        for job, device_s in zip(done["jobs"], done["device_s"], strict=True)
    }


def test_the_legend_names_what_is_drawn(page: Any) -> None:
    text = page.locator("#timeline-key").inner_text()
    for word in (
        MODEL,
        HEAD_MODEL,
        "loading a model",
        "importing",
        "a plain GPU job",
        "eviction",
        "death",
        "alive, idle",
        "reading inputs",
        "writing outputs",
        "ending",
    ):
        assert word in text
