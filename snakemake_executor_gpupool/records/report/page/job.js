// The table of jobs, and a job's own page.

class JobsSection {
  constructor(run, openJob) {
    this.run = run;
    const jobs = Array.from({ length: run.jobCount }, (_, job) => job);
    this.table = new BigTable({ label: "Jobs", columns: jobColumns(run), rows: jobs, open: openJob, sortedBy: 2 });
    this.search = h("input", { type: "search", id: "job-search", placeholder: "name, wildcard, file", oninput: () => this._later() });
    this.rule = h("select", { id: "job-rule", onchange: () => this.filter() }, h("option", { value: "" }, "all rules"),
      run.rules.map((rule) => h("option", { value: rule.name }, rule.name)));
    const states = [...new Set(run.jobs.state)].sort().map((state) => STATES[state]);
    this.state = h("select", { id: "job-state", onchange: () => this.filter() }, h("option", { value: "" }, "any state"),
      states.map((state) => h("option", { value: state }, STATE_WORDS[state])),
      run.jobs.over.some(Boolean) && h("option", { value: "over" }, "over time"));
    this.count = h("span", { class: "count", role: "status" });
    this.jobs = jobs;
    this.element = h("section", { id: "jobs", "aria-labelledby": "jobs-title", tabindex: -1 },
      h("h2", { id: "jobs-title" }, "Jobs"),
      run.jobCount
        ? [
          h("div", { class: "filters" },
            h("label", { for: "job-search" }, "Search ", this.search),
            h("label", { for: "job-rule" }, "Rule ", this.rule),
            h("label", { for: "job-state" }, "State ", this.state),
            this.count),
          this.table.element,
        ]
        : h("p", { class: "muted" }, "There was none."));
    this.filter();
  }

  /** While somebody types, the table follows a moment later. */
  _later() {
    clearTimeout(this._typing);
    this._typing = setTimeout(() => this.filter(), 80);
  }

  showRule(rule) {
    this.search.value = "";
    this.state.value = "";
    this.rule.value = rule;
    this.filter();
  }

  filter() {
    const { run } = this;
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rule = this.rule.value === "" ? -1 : run.rules.findIndex((each) => each.name === this.rule.value);
    const state = this.state.value;
    const { rule: rules, state: states, over } = run.jobs;
    const found = this.jobs.filter((job) => {
      if (rule >= 0 && rules[job] !== rule) return false;
      if (state === "over" ? !over[job] : state && STATES[states[job]] !== state) return false;
      if (!words.length) return true;
      const text = this._text(job);
      return words.every((word) => text.includes(word));
    });
    this.table.show(found);
    const all = run.jobCount;
    this.count.textContent = found.length === all ? counted(all, "job") : `${count(found.length)} of ${counted(all, "job")}`;
  }

  _text(job) {
    if (!this._texts) this._texts = new Array(this.run.jobCount);
    const { inputs, outputs } = this.run.jobs;
    this._texts[job] ??= `${this.run.title(job)}\n${inputs[job]}\n${outputs[job]}`.toLowerCase();
    return this._texts[job];
  }
}

function jobColumns(run) {
  const { jobs } = run;
  const none = (value) => (value < 0 ? null : value);
  const number = (title, width, get, show) => ({ title, width, number: true, sort: get, cell: (job) => show(get(job)) });
  return [
    { title: "State", width: "9.5rem", sort: (job) => jobs.state[job], cell: (job) => stateWord(run, job) },
    { title: "Job", width: "", sort: (job) => run.title(job), cell: (job) => h("a", { href: jobHash(run, job), tabindex: -1, title: run.title(job) }, run.title(job)) },
    number("Submitted", "7.2rem", (job) => jobs.submitted[job] * TICK_S, duration),
    number("Took", "6.8rem", (job) => run.turnaround(job), duration),
    number("Waited", "6.8rem", (job) => run.seconds("waited", job), duration),
    number("Device time", "7.6rem", (job) => run.deviceSeconds(job), duration),
    number("Items", "5rem", (job) => none(jobs.items[job]), count),
    number("Batches", "6rem", (job) => (run.isLease(job) ? null : run.batchesOfJob(job)), count),
    number("Shared with", "8rem", (job) => (run.isLease(job) ? null : run.sharedWith(job)), (jobs) => (jobs === null ? NONE : counted(jobs, "job"))),
    number("Peak memory", "8rem", (job) => none(jobs.peak_mib[job]), mebibytes),
  ];
}

function stateClass(state) {
  return { reading: "running", writing: "running", lost: "failed" }[state] || state;
}

function stateWord(run, job) {
  const state = run.state(job);
  return h("span", { class: `state ${stateClass(state)}` }, run.jobs.over[job] ? (state === "done" ? "over time" : `${STATE_WORDS[state]}, over time`) : STATE_WORDS[state]);
}

// -- a job's own page ---------------------------------------------------------------------------
function jobPage(run, job) {
  const { jobs } = run;
  const message = run.text(jobs.error[job]);
  return h("article", { "aria-labelledby": "job-title" },
    h("p", { class: "crumb no-print" }, h("a", { href: "#jobs" }, "← All jobs")),
    h("h1", { id: "job-title", tabindex: -1 }, run.title(job)),
    h("p", {}, stateWord(run, job), h("span", { class: "muted" }, ` · job ${jobs.id[job]} of rule `), h("a", { href: `#jobs?rule=${encodeURIComponent(run.ruleOf(job).name)}` }, run.ruleOf(job).name)),
    message && h("div", { class: "failure" }, h("pre", { tabindex: 0 }, message)),
    jobPhases(run, job),
    h("h2", { class: "minor" }, "What it took"),
    jobFacts(run, job),
    run.isLease(job) ? leaseDevices(run, job) : jobBatches(run, job),
    !run.isLease(job) && jobCompany(run, job),
    h("div", { class: "columns" },
      filesOf("Inputs", jobs.inputs[job], jobs.n_inputs[job]),
      filesOf("Outputs", jobs.outputs[job], jobs.n_outputs[job]),
      filesOf("Log", jobs.logs[job], 0)),
  );
}

function jobFacts(run, job) {
  const { jobs } = run;
  const none = (value, show) => (value < 0 ? null : show(value));
  const [items, duplicates, reused] = [jobs.items[job], jobs.duplicates[job], jobs.reused[job]];
  const kept = Math.max(duplicates, 0) + Math.max(reused, 0);
  return facts([
    ["Device time", duration(run.deviceSeconds(job))],
    ["Of all device time", percent(shareOfAll(run, job))],
    ["Waited", duration(run.seconds("waited", job))],
    ["Submission to end", run.isOver(job) ? duration(run.turnaround(job)) : null],
    ["So far", run.isOver(job) ? null : duration(run.turnaround(job))],
    ["Submitted after", duration(jobs.submitted[job] * TICK_S)],
    ["Items", none(items, count)],
    ["Computed for it", items < 0 ? null : count(items - kept)],
    ["Duplicates of others", none(duplicates, count)],
    ["From earlier runs", reused > 0 ? count(reused) : null],
    ["Spared by duplicates", jobs.saved_us[job] > 0 ? duration(jobs.saved_us[job] / 1e6) : null],
    ["Peak memory", none(jobs.peak_mib[job], mebibytes)],
    ["Energy", none(jobs.energy_mj[job], (value) => `${figure(value / 1000)} J`)],
    ["Runtime allowed", none(jobs.limit[job], (value) => duration(value * TICK_S))],
    ["Attempt", jobs.attempt[job] > 1 ? count(jobs.attempt[job]) : null],
    ["Merged into", jobs.merged[job] < 0 ? null : h("a", { href: `#batch-${jobs.merged[job]}` }, `batch ${jobs.merged[job]}`)],
  ]);
}

function shareOfAll(run, job) {
  run.allDeviceSeconds ??= run.jobs.device_us.reduce((sum, value) => sum + Math.max(value, 0), 0) / 1e6;
  const own = run.deviceSeconds(job);
  return own === null || !run.allDeviceSeconds ? null : own / run.allDeviceSeconds;
}

/** A strip from submission to end: reading, computing, writing; what is empty is waiting. */
function jobPhases(run, job) {
  const start = run.jobs.submitted[job];
  const length = Math.max(run.turnaround(job) / TICK_S, 1);
  const pieces = [];
  const add = (kind, from, ticks, title) => {
    const piece = placed(h("i", { class: kind, title }), Math.max(0, (from - start) / length), ticks / length);
    pieces.push({ kind, piece });
  };
  for (const span of run.spansOfJob(job)) {
    const kind = SPAN_KINDS[run.spans.kind[span]];
    add(kind === "read" ? "read" : "write", run.spans.start[span], run.spans.ticks[span], KIND_WORDS[kind]);
  }
  for (const part of run.partsOfJob(job)) {
    const batch = run.batchOfPart[part];
    add("compute", run.batches.start[batch], run.batches.ticks[batch], `batch ${run.batches.id[batch]}`);
  }
  for (let i = 0; i < run.holds.job.length; i++) {
    if (run.holds.job[i] === job) add("compute", run.holds.start[i], run.holds.ticks[i], "has its devices");
  }
  if (!pieces.length) return null;
  const words = { read: "reading", compute: run.isLease(job) ? "has its devices" : "its batches", write: "writing" };
  const used = new Set(pieces.map(({ kind }) => kind));
  return h("div", {},
    h("div", { class: "phases", "aria-hidden": "true" }, pieces.map(({ piece }) => piece)),
    h("div", { class: "key" }, Object.entries(words).filter(([kind]) => used.has(kind)).map(([kind, word]) => h("span", {}, h("i", { class: kind }), word)), h("span", {}, "empty: waiting")));
}

function jobBatches(run, job) {
  const parts = run.partsOfJob(job);
  if (!parts.length) return h("p", { class: "muted" }, "None of its items was in a batch.");
  const { batches } = run;
  const rows = parts.map((part) => {
    const batch = run.batchOfPart[part];
    const worker = run.workers[batches.worker[batch]];
    const others = batches.parts[batch] - 1;
    return h("tr", {},
      h("td", {}, h("a", { href: `#batch-${batches.id[batch]}` }, `batch ${batches.id[batch]}`)),
      h("td", { class: "name" }, worker.name),
      h("td", {}, worker.devices.map((device) => run.devices[device].name).join(", ")),
      numberCell(duration(batches.start[batch] * TICK_S)), numberCell(duration(batches.ticks[batch] * TICK_S)),
      numberCell(count(batches.items[batch])), numberCell(count(batches.tokens[batch])), numberCell(percent(run.padding(batch))),
      numberCell(run.parts.share[part] < 0 ? NONE : percent(run.parts.share[part] / 1000)),
      numberCell(others ? counted(others, "other job") : "nobody"),
    );
  });
  return [
    h("h2", { class: "minor" }, `Its ${parts.length === 1 ? "batch" : `${count(parts.length)} batches`}`),
    plainTable("Batches of the job", ["Batch", "Worker", "Device", "From", "Took", "Items", "Tokens", "Padding", "Its share", "Shared with"], [3, 4, 5, 6, 7, 8, 9], rows.slice(0, 500)),
    rows.length > 500 && h("p", { class: "muted" }, `${count(rows.length - 500)} more.`),
  ];
}

function jobCompany(run, job) {
  const company = run.companions(job);
  if (!company.size) return null;
  const jobs = [...company.keys()].sort((a, b) => company.get(b) - company.get(a) || a - b);
  return [
    h("h2", { class: "minor" }, `Shared batches with ${counted(jobs.length, "job")}`),
    jobList(run, jobs, (other) => counted(company.get(other), "batch", "batches")),
  ];
}

function leaseDevices(run, job) {
  const held = run.holds.job.map((owner, i) => (owner === job ? run.devices[run.holds.device[i]].name : null)).filter(Boolean);
  return h("p", {}, held.length ? `A plain GPU job: it had ${held.join(", ")} to itself.` : "A plain GPU job: it never had its devices.");
}

function filesOf(title, lines, total) {
  const paths = lines ? lines.split("\n") : [];
  if (!paths.length) return null;
  const left = total - paths.length;
  return h("div", {}, h("h2", { class: "minor" }, left > 0 ? `${title} (${count(total)})` : title),
    h("ul", { class: "names" }, paths.map((path) => h("li", {}, h("code", {}, path)))),
    left > 0 && h("p", { class: "muted" }, `and ${count(left)} more`));
}
