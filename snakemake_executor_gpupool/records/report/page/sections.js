// The sections below the overview.

function failuresSection(run) {
  const failed = [];
  for (let job = 0; job < run.jobCount; job++) if (run.state(job) === "failed") failed.push(job);
  const crashed = run.workers.filter((worker) => worker.crashed);
  if (!failed.length && !crashed.length) return null;
  const byMessage = new Map();
  for (const job of failed) {
    const text = failureText(run, job);
    if (!byMessage.has(text)) byMessage.set(text, []);
    byMessage.get(text).push(job);
  }
  return h("section", { id: "failures", "aria-labelledby": "failures-title", tabindex: -1 },
    h("h2", { id: "failures-title" }, failed.length ? `${counted(failed.length, "job")} failed` : "Workers that died"),
    [...byMessage].slice(0, 50).map(([text, jobs]) => h("div", { class: "failure" },
      h("h3", {}, jobs.length === 1 ? jobLink(run, jobs[0]) : `${counted(jobs.length, "job")} with the same message`),
      h("pre", { tabindex: 0 }, text || "It has left no message."),
      jobs.length > 1 && jobList(run, jobs, null, 12),
    )),
    byMessage.size > 50 && h("p", { class: "muted" }, `${count(byMessage.size - 50)} more messages: see the failed jobs in the table of jobs.`),
    crashed.length > 0 && [
      h("h3", {}, `${counted(crashed.length, "worker")} ended by ${crashed.length === 1 ? "itself" : "themselves"}`),
      h("ul", {}, crashed.map((worker) => h("li", {}, h("code", {}, worker.name), `: ${worker.reason || "without a reason"}`))),
    ],
  );
}

/** The message without the job's own name before it, so that equal ones are seen to be equal. */
function failureText(run, job) {
  const text = run.text(run.jobs.error[job]);
  const rule = run.ruleOf(job).name;
  for (const title of [`rule ${run.title(job)}: `, `rule ${rule}: `]) if (text.startsWith(title)) return text.slice(title.length);
  return text;
}

function jobLink(run, job) {
  return h("a", { href: jobHash(run, job) }, run.title(job));
}

function jobHash(run, job) {
  return `#job-${run.jobs.id[job]}`;
}

/** Links to jobs; the first ones, and the rest when it is asked for. */
function jobList(run, jobs, notes, most = 60) {
  const entry = (job) => h("li", {}, jobLink(run, job), notes ? [" ", h("span", { class: "muted small" }, notes(job))] : null);
  const list = h("ul", { class: "names" }, jobs.slice(0, most).map(entry));
  if (jobs.length <= most) return list;
  const more = h("button", { type: "button", onclick: () => (more.remove(), list.append(...jobs.slice(most).map(entry))) }, `Show ${count(jobs.length - most)} more`);
  return [list, more];
}

// -- the timeline ---------------------------------------------------------------------------
function timelineSection(run) {
  const detail = h("div", { class: "detail", id: "detail", "aria-live": "off", tabindex: -1 },
    h("p", { class: "muted" }, "Click a stretch of the timeline, or press Enter on it, to see what it was."));
  const describe = (hit) => describeHit(run, hit);
  const show = (hit) => detail.replaceChildren(...[hitDetail(run, hit)].flat());
  const choose = (hit) => {
    show(hit);
    if (hit.at !== undefined && document.activeElement === timeline.drawing) announce(`Details of ${describe(hit)[0]} are below the timeline`);
  };
  const timeline = new Timeline(run, { describe, choose });
  timeline.focused = show;
  const button = (label, text, act) => h("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
  const element = h("section", { id: "timeline", "aria-labelledby": "timeline-title", tabindex: -1 },
    h("h2", { id: "timeline-title" }, "Devices and workers over time"),
    h("div", { class: "tools" },
      h("div", { class: "buttons" },
        button("Zoom in", "+", () => timeline.zoom(0.5)),
        button("Zoom out", "−", () => timeline.zoom(2)),
        button("Show the whole run", "Whole run", () => timeline.fit()),
      ),
      h("p", { class: "hint", id: "timeline-keys" },
        "Wheel: zoom. Drag: move. Keys: ← → from stretch to stretch, ↑ ↓ from lane to lane, + − zoom, Shift with ← → moves, Enter shows details, 0 the whole run."),
    ),
    timeline.element,
    timelineKey(run, false),
    detail,
  );
  const redrawKey = (onPaper) => element.querySelector("#timeline-key").replaceWith(timelineKey(run, onPaper));
  return { element, timeline, choose, redrawKey };
}

function timelineKey(run, onPaper) {
  const colours = pageColours(onPaper);
  const used = new Set(run.spans.kind.map((kind) => SPAN_KINDS[kind]));
  if (run.holds.start.length) used.add("lease");
  const swatch = (draw) => {
    const canvas = h("canvas", { width: 44, height: 28, "aria-hidden": "true" });
    draw(canvas.getContext("2d"));
    return canvas;
  };
  const entry = (canvas, ...text) => h("span", {}, canvas, text);
  const colour = (number) => swatch((pen) => {
    pen.fillStyle = BATCH_FILLS[number % BATCH_FILLS.length];
    pen.fillRect(0, 0, 44, 28);
  });
  // More models than colours: neighbours differ, and each stretch says its model.
  const models = run.models.length > BATCH_FILLS.length
    ? [h("span", {}, BATCH_FILLS.map((_, number) => colour(number)), `batches of ${count(run.models.length)} models, whose colours repeat`)]
    : run.models.map((model, number) => entry(colour(number), `batch of ${model.name}`));
  const kinds = Object.keys(KIND_FILLS).filter((kind) => used.has(kind)).map((kind) => entry(swatch((pen) => {
    pen.scale(2, 2);
    pen.fillStyle = new Paint(pen, colours).fill(kind, 0);
    pen.fillRect(0, 0, 22, 14);
  }), KIND_WORDS[kind]));
  const marks = [...new Set(run.marks.kind)].sort().map((kind) => entry(swatch((pen) => {
    pen.scale(2, 2);
    new Paint(pen, { ...colours, back: "transparent" }).mark(MARK_KINDS[kind], 11, 7);
  }), MARK_WORDS[MARK_KINDS[kind]]));
  const idle = entry(swatch((pen) => ((pen.fillStyle = colours.idle), pen.fillRect(0, 12, 44, 4))), "alive, idle");
  return h("div", { class: "key", id: "timeline-key" }, models, kinds, run.workers.length ? idle : null, marks);
}

/** Lines of text: the first says what it is. */
function describeHit(run, hit) {
  const at = (ticks) => duration(ticks * TICK_S);
  if (hit.mark) return [`${MARK_WORDS[hit.mark[1]]}, ${hit.lane.name}`, `${at(hit.mark[0])} after the start`, hit.mark[2]];
  if (hit.idle) return [`Idle, ${hit.lane.name}`, `for ${at(hit.idle[1] - hit.idle[0])}, from ${at(hit.idle[0])} after the start`];
  const [start, end, kind, number] = hit.lane.spans[hit.at];
  const when = `${at(end - start)}, from ${at(start)} after the start`;
  if (kind === "batch") return [...describeBatch(run, number), when];
  const job = kind === "lease" ? run.holds.job[number] : run.spans.job[number];
  const word = KIND_WORDS[kind][0].toUpperCase() + KIND_WORDS[kind].slice(1);
  if (job >= 0) return [word, run.title(job), when];
  return [word, workerOf(run, kind, number)?.model || "", when].filter(Boolean);
}

function workerOf(run, kind, number) {
  if (kind === "batch") return run.workers[run.batches.worker[number]];
  return kind === "lease" ? null : run.workers[run.spans.worker[number]];
}

function describeBatch(run, batch) {
  const { batches } = run;
  const padding = run.padding(batch);
  return [
    `Batch ${batches.id[batch]}${batches.lost[batch] ? ", lost" : ""}, ${workerOf(run, "batch", batch).model}`,
    `${counted(batches.items[batch], "item")} of ${counted(batches.parts[batch], "job")}`,
    counted(batches.tokens[batch], "token") + (batches.us[batch] > 0 ? `, ${figure(run.tokensPerSecond(batch))} a second` : "") + (padding === null ? "" : `, padding ${percent(padding)}`),
  ];
}

/** What a click on the timeline shows below it. */
function hitDetail(run, hit) {
  if (hit.at === undefined) {
    const [first, ...rest] = describeHit(run, hit);
    return [h("h3", {}, first), ...rest.map((line) => h("p", {}, line))];
  }
  const [start, end, kind, number] = hit.lane.spans[hit.at];
  if (kind === "batch") return batchDetail(run, number);
  const job = kind === "lease" ? run.holds.job[number] : run.spans.job[number];
  const worker = workerOf(run, kind, number);
  return [
    h("h3", {}, describeHit(run, hit)[0]),
    facts([
      ["Job", job >= 0 ? jobLink(run, job) : null],
      ["Worker", worker?.name],
      ["Model", worker?.model],
      ["From", duration(start * TICK_S)],
      ["Took", duration((end - start) * TICK_S)],
      ["Process", worker?.pid],
      ["Log", worker?.log && h("code", {}, worker.log)],
      ["Ended", worker?.reason],
    ]),
  ];
}

function batchDetail(run, batch) {
  const { batches } = run;
  const worker = workerOf(run, "batch", batch);
  const members = run.partsOfBatch(batch);
  const shares = new Map(members.map((part) => [run.parts.job[part], run.parts.share[part]]));
  const jobs = [...shares.keys()].sort((a, b) => shares.get(b) - shares.get(a));
  const stages = run.stages.find(([number]) => number === batches.id[batch]);
  return [
    h("h3", {}, `Batch ${batches.id[batch]}`),
    facts([
      ["Worker", worker.name],
      ["Model", worker.model],
      ["From", duration(batches.start[batch] * TICK_S)],
      [batches.going[batch] ? "So far" : "Took", duration(batches.ticks[batch] * TICK_S)],
      ["Items", count(batches.items[batch])],
      ["Tokens", count(batches.tokens[batch])],
      ["Longest item", counted(batches.longest[batch], "token")],
      ["Padding", percent(run.padding(batch))],
      ["Tokens a second", figure(run.tokensPerSecond(batch))],
      ["Peak memory", batches.peak_mib[batch] < 0 ? null : mebibytes(batches.peak_mib[batch])],
      ["Energy", batches.energy_mj[batch] < 0 ? null : `${figure(batches.energy_mj[batch] / 1000)} J`],
      ["Charged to no job", batches.overhead_us[batch] > 0 ? duration(batches.overhead_us[batch] / 1e6) : null],
      ["Failed items", batches.failed[batch] || null],
      ["Lost", batches.lost[batch] ? "its worker ended before it was done" : null],
    ]),
    stages && h("p", {}, `A merged dispatch: ${chainWords(stages[1])}`),
    h("h3", {}, jobs.length === 1 ? "Its job, with its share of the device time" : `The ${count(jobs.length)} jobs that shared it, with their shares of its device time`),
    jobList(run, jobs, (job) => (shares.get(job) < 0 ? "" : percent(shares.get(job) / 1000))),
  ].flat().filter(Boolean);
}

// -- tables -------------------------------------------------------------------------------------
function rulesSection(run) {
  const most = Math.max(...run.rules.map((rule) => (rule.device_s || 0) + rule.leased_s), 1e-9);
  const sum = (get) => run.rules.reduce((total, rule) => total + get(rule), 0);
  const lost = sum((rule) => rule.lost) > 0;
  const rows = run.rules.map((rule) => {
    const bar = h("span", { class: "inbar" });
    const seconds = rule.device_s === null && !rule.leases ? null : (rule.device_s || 0) + rule.leased_s;
    bar.style.width = `${(100 * (seconds || 0)) / most}%`;
    const kind = rule.leases ? "plain GPU jobs" : rule.tools.join(", ");
    return h("tr", {},
      h("td", { class: "name" }, h("a", { href: `#jobs?rule=${encodeURIComponent(rule.name)}` }, rule.name), kind && h("div", { class: "small muted" }, kind)),
      numberCell(count(rule.done)), numberCell(count(rule.failed)), numberCell(count(rule.waiting + rule.running)),
      numberCell(count(rule.withdrawn)), lost && numberCell(count(rule.lost)),
      numberCell(duration(seconds), bar),
      numberCell(duration(rule.device_median_s ?? rule.lease_median_s)),
      numberCell(duration(rule.device_most_s)),
      numberCell(duration(rule.wait_median_s)),
      numberCell(rule.leases ? NONE : count(rule.items)),
      numberCell(rule.leases ? NONE : count(rule.over)),
    );
  });
  const foot = run.rules.length > 1 && h("tr", {},
    h("th", { scope: "row" }, "All rules"),
    ...[(r) => r.done, (r) => r.failed, (r) => r.waiting + r.running, (r) => r.withdrawn, lost && ((r) => r.lost)].filter(Boolean).map((get) => numberCell(count(sum(get)))),
    numberCell(duration(sum((r) => (r.device_s || 0) + r.leased_s))), numberCell(), numberCell(), numberCell(),
    numberCell(count(sum((r) => r.items))), numberCell(count(sum((r) => r.over))),
  );
  const heads = ["Rule", "Finished", "Failed", "Waiting", "Not started", lost && "Cut off", "Device time", "A job, median", "A job, most", "Wait, median", "Items", "Over time"].filter(Boolean);
  return h("section", { id: "rules", "aria-labelledby": "rules-title", tabindex: -1 },
    h("h2", { id: "rules-title" }, "Rules"),
    run.rules.length
      ? plainTable("Jobs and time by rule", heads, heads.map((_, i) => i).slice(1), rows, foot)
      : h("p", { class: "muted" }, "No rule was served, and none had devices of its own."),
    h("p", { class: "small muted" }, "Device time is a job's share of the time of its batches; of a plain GPU job, for how long it held its devices, times their number. Wait is when nothing was done for a job between its submission and its end. Rules that are neither served nor have devices are not listed. Over time: over the rule's runtime; without one, more than twice, and a second more than, the rule's median time per item times the job's items."),
    modelsTable(run),
    timesTable(run),
  );
}

function modelsTable(run) {
  if (!run.models.length) return null;
  const rows = run.models.map((model) => h("tr", {},
    h("td", { class: "name" }, model.name, model.tools.join() !== model.name && h("div", { class: "small muted" }, model.tools.join(", "))),
    numberCell(count(model.workers) + (model.crashes ? ` (${count(model.crashes)} died)` : "")),
    numberCell(duration(model.import_s)), numberCell(duration(model.load_s)), numberCell(count(model.loads)),
    numberCell(count(model.batches)), numberCell(count(model.items)),
    numberCell(duration(model.device_s)),
    numberCell(model.items ? duration(model.device_s / model.items) : NONE),
    numberCell(model.seconds ? figure(model.items / model.seconds) : NONE),
    numberCell(model.seconds ? figure(model.tokens / model.seconds) : NONE),
    numberCell(percent(model.padding)),
    numberCell(mebibytes(model.peak_mib)),
  ));
  return [
    h("h3", {}, "Tools and their models"),
    plainTable("Tools and models", ["Model", "Workers", "Import", "Load", "Loads", "Batches", "Items", "Computing", "An item", "Items/s", "Tokens/s", "Padding", "Peak memory"], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], rows),
  ];
}

const TIME_WORDS = {
  jobs: "Computing for jobs",
  nobody: "For nobody",
  import: "Starting",
  load: "Loading",
  move: "Moving",
  lease: "Plain GPU jobs",
  idle: "Idle",
  empty: "Without a worker",
};

/** Where the time of each device went, as a bar and in figures. */
function timesTable(run) {
  if (!run.times.length) return null;
  const kinds = Object.keys(TIME_WORDS).filter((kind) => run.times.some((row) => row[kind] > 0));
  const bar = (row) => {
    const whole = kinds.reduce((sum, kind) => sum + row[kind], 0) || 1;
    return h("div", { class: "bar" }, kinds.map((kind) => {
      const part = h("div", { class: `part ${kind}`, title: `${TIME_WORDS[kind]}: ${duration(row[kind])}, ${percent(row[kind] / whole)}` });
      part.style.width = `${(100 * row[kind]) / whole}%`;
      return part;
    }));
  };
  const rows = run.times.map((row) => h("tr", {}, h("td", { class: "whole" }, row.name), h("td", { class: "wide-bar" }, bar(row)), kinds.map((kind) => numberCell(duration(row[kind])))));
  const sums = run.times.length > 1 && h("tr", {}, h("th", { scope: "row" }, "All devices"), h("td"),
    kinds.map((kind) => numberCell(duration(run.times.reduce((sum, row) => sum + row[kind], 0)))));
  return [
    h("h3", {}, "Where the time of devices went"),
    plainTable("Time of devices", ["Device", "Shares", ...kinds.map((kind) => TIME_WORDS[kind])], kinds.map((_, i) => i + 2), rows, sums),
    h("div", { class: "key" }, kinds.map((kind) => h("span", {}, h("i", { class: `part ${kind}` }), TIME_WORDS[kind]))),
    h("p", { class: "small muted" }, kinds.includes("nobody") && "For nobody: items that did not fit and were tried again, that no job waited for any more, or that a worker died over. ", "Idle: a worker with its model that had nothing to compute."),
  ];
}

/** The rules of a merged dispatch, stage by stage: 3 × query → 3 × score. */
function chainWords(rules) {
  return rules.map(([rule, jobs]) => (jobs > 1 ? `${count(jobs)} × ${rule}` : rule)).join(" → ");
}

function savingsSection(run) {
  const all = totals(run);
  const rules = run.rules.filter((rule) => rule.duplicates || rule.reused || rule.merged);
  const rows = rules.map((rule) => h("tr", {},
    h("td", { class: "name" }, rule.name), numberCell(count(rule.items)), numberCell(count(rule.duplicates)),
    numberCell(percent(rule.items ? rule.duplicates / rule.items : null)), numberCell(duration(rule.saved_s)),
    numberCell(count(rule.reused)), numberCell(count(rule.merged)),
  ));
  const chains = run.stages.slice(0, 200);
  return h("section", { id: "savings", "aria-labelledby": "savings-title", tabindex: -1 },
    h("h2", { id: "savings-title" }, "What was not computed twice"),
    rules.length
      ? [
        h("p", {}, `${count(all.duplicates)} of ${counted(all.items, "item")} were duplicates of others: computing them would have taken ${duration(all.saved)} of device time more.` +
          (all.reused ? ` ${counted(all.reused, "result")} came from earlier runs.` : "") +
          (all.merged ? ` ${counted(all.merged, "job")} needed no dispatch, since an earlier one had computed what they read.` : "")),
        h("p"),
        plainTable("Duplicates by rule", ["Rule", "Items", "Duplicates", "Share", "Spared", "From earlier runs", "Merged jobs"], [1, 2, 3, 4, 5, 6], rows),
      ]
      : h("p", { class: "muted" }, "Every item was there once; nothing was merged, and nothing came from earlier runs."),
    chains.length > 0 && [
      h("h3", {}, "Merged chains"),
      h("p", { class: "small muted" }, "Short jobs that took the jobs after them along in one dispatch."),
      h("ul", { class: "names" }, chains.map(([batch, rules]) => h("li", {}, h("a", { href: `#batch-${batch}` }, `batch ${batch}`), `: ${chainWords(rules)}`))),
      run.stages.length > 200 && h("p", { class: "muted" }, `${count(run.stages.length - 200)} more.`),
    ],
  );
}

function aboutSection(run) {
  const about = run.run;
  const devices = run.devices.map((device) => h("tr", {},
    h("td", { class: "name" }, device.name), h("td", {}, device.model || device.kind, device.simulated && " (simulated)"),
    numberCell(mebibytes(device.memory_mib)), h("td", {}, device.node || "this machine"),
    numberCell(duration(device.busy_s)), numberCell(percent(device.busy_share)),
    numberCell(device.energy_j === null ? NONE : `${figure(device.energy_j)} J`), h("td", {}, h("code", {}, device.uuid || NONE)),
  ));
  const versions = [...about.versions, ...(about.driver ? [["NVIDIA driver", about.driver]] : [])];
  const text = (value) => (value === null ? NONE : String(value));
  return h("section", { id: "run", "aria-labelledby": "run-title", tabindex: -1 },
    h("h2", { id: "run-title" }, "The run"),
    plainTable("Managed devices", ["Device", "Model", "Memory", "Machine", "Busy", "Share", "Energy", "UUID"], [2, 4, 5, 6], devices),
    h("div", { class: "columns" },
      h("div", {}, h("h3", {}, "Run"), facts([
        ["Run", about.id], ["Directory", h("code", {}, about.directory)], ["Working directory", about.cwd && h("code", {}, about.cwd)],
        ["Started", moment(about.started_at_s)], ["Machine", about.host], ["Asked by", about.frontend],
      ], "pairs")),
      h("div", {}, h("h3", {}, "Versions"), versions.length ? facts(versions, "pairs") : h("p", { class: "muted" }, "This version did not record them.")),
      h("div", {}, h("h3", {}, "Options"), about.options.length
        ? facts(about.options.map(([name, value]) => [h("code", {}, name), text(value)]), "pairs")
        : h("p", { class: "muted" }, "None was given: all had their defaults.")),
      h("div", {}, h("h3", {}, "What happened"), remarks(run)),
    ),
  );
}

/** Warnings, and whatever happened at one moment: what the timeline marks, in words. */
function remarks(run) {
  const { marks } = run;
  const order = marks.time.map((_, i) => i).sort((a, b) => marks.time[a] - marks.time[b]);
  if (!order.length) return h("p", { class: "muted" }, "Nothing: no warnings, no evictions, and no device came or went.");
  const words = (i) => {
    const worker = marks.worker[i] < 0 ? "" : `${run.workers[marks.worker[i]].name}: `;
    return `${duration(Math.max(marks.time[i], 0) * TICK_S)}: ${worker}${run.text(marks.text[i])}`;
  };
  return [
    h("ul", {}, order.slice(0, 200).map((i) => h("li", {}, words(i)))),
    order.length > 200 && h("p", { class: "muted" }, `${count(order.length - 200)} more.`),
  ];
}
