// The first thing to be seen: how long it took, against what, and what became of the jobs.

function overviewSection(run) {
  return h("section", { id: "overview", "aria-labelledby": "overview-title", tabindex: -1 },
    h("h2", { id: "overview-title", class: "unseen" }, "Overview"),
    warnings(run),
    h("div", { class: "headline" }, headline(run), comparison(run)),
    tiles(run),
  );
}

function warnings(run) {
  const about = run.run;
  const lines = [];
  if (about.state === "going") lines.push(`The run was still going when this was written, ${duration(about.wall_s)} after its start: figures are of what had happened until then.`);
  if (about.state === "killed") lines.push("The run's process ended without writing its end. Figures are of what had happened until then.");
  if (about.state === "broken") lines.push(`The pool itself failed: ${about.error || "it has not said why"}`);
  if (about.simulated) lines.push("The GPUs of this run were simulated: everything was computed on the CPU, and times say nothing of real cards.");
  lines.push(...about.notes);
  return lines.map((line) => h("p", { class: "warning" }, line));
}

function headline(run) {
  const { estimate } = run;
  const gain = estimate && estimate.own_s ? estimate.wall_s / estimate.own_s : null;
  return h("div", {},
    h("p", { class: "what" }, run.run.is_over ? "The run took" : "The run has taken so far"),
    h("p", { class: "figure" }, duration(run.run.wall_s)),
    gain !== null && h("p", { class: "gain" }, gain >= 1
      ? ["Its served jobs were ", h("strong", {}, `${figure(gain)} times faster`), " than one process per job, by an estimate"]
      : ["Its served jobs were ", h("strong", {}, "no faster"), " than one process per job, by an estimate: there was too little to compute"]),
  );
}

function comparison(run) {
  const { estimate } = run;
  if (!estimate) {
    return h("p", { class: "muted" }, "There is nothing to compare with one process per job: no served job has finished, or this version did not record what jobs cost.");
  }
  const longest = Math.max(estimate.own_s, estimate.wall_s) || 1;
  const kinds = { import: "import_s", load: "load_s", compute: "inference_s" };
  const words = { import: "importing", load: "loading", compute: "computing" };
  const bar = (prefix) => h("div", { class: "track" }, Object.entries(kinds).map(([kind, name]) => {
    const seconds = estimate[prefix + name];
    const part = h("div", { class: `part ${kind}`, title: `${words[kind]} ${duration(seconds)}` });
    part.style.width = `${(100 * seconds) / longest}%`;
    return part;
  }));
  const parts = (prefix) => Object.entries(kinds).map(([kind, name]) => `${words[kind]} ${duration(estimate[prefix + name])}`).join(", ");
  return h("div", {},
    h("div", { class: "compare" },
      h("div", {}, "Served jobs, this run"), bar("own_"), h("div", { class: "number" }, duration(estimate.own_s)),
      h("div", {}, "One process per job"), bar(""), h("div", { class: "number" }, `≈ ${duration(estimate.wall_s)}`),
    ),
    h("div", { class: "key" }, Object.keys(kinds).map((kind) => h("span", {}, h("i", { class: `part ${kind}` }), words[kind]))),
    h("p", { class: "small muted" }, `This run: ${parts("own_")}. One process per job: ${parts("")}. On ${counted(estimate.devices, "device")}; idle time and other rules are in neither.`),
    howEstimated(run, estimate),
  );
}

function howEstimated(run, estimate) {
  const rows = estimate.shares.map((share) => h("tr", {},
    h("td", { class: "name" }, share.model || share.tool),
    numberCell(count(share.jobs)),
    numberCell(share.imports ? `${duration(share.import_s)} (${counted(share.imports, "worker")})` : "not measured"),
    numberCell(share.loads ? `${duration(share.load_s)} (${counted(share.loads, "load")})` : "not measured"),
    numberCell(duration(share.inference_s)),
    numberCell(duration(share.jobs * ((share.import_s || 0) + (share.load_s || 0)) + share.inference_s)),
  ));
  return h("details", {},
    h("summary", {}, "How it is estimated"),
    h("div", {},
      h("p", {}, "For each model: finished jobs × (import + load) + inference; the sum over all models, divided by the ",
        counted(estimate.devices, "device"), " that the jobs used. This run: for how long workers on these devices started and imported, loaded and moved models, and computed, divided likewise; what several did at once on one device counts once. All of it was measured in this run."),
      plainTable("Estimate by model", ["Model", "Jobs", "Start and import, median", "Load, median", "Inference, all jobs", "One after the other"], [1, 2, 3, 4, 5], rows),
      h("p", { class: "small muted" }, "Inference is what jobs were charged of their batches, and what they were spared because others had asked for the same items. Left out, so that the estimate is rather too low: reading and writing, Snakemake's own process for each job, and that a process by itself fills no batch. ", estimate.gaps.join(" ")),
    ),
  );
}

function numberCell(...content) {
  return h("td", { class: "number" }, content);
}

/** A table that is in the page as a whole. `numbers`: which columns are numbers. */
function plainTable(label, heads, numbers, rows, foot) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    h("table", { "aria-label": label },
      h("thead", {}, h("tr", {}, heads.map((head, i) => h("th", { scope: "col", class: numbers.includes(i) ? "number" : null }, head)))),
      h("tbody", {}, rows),
      foot && h("tfoot", {}, foot),
    ),
  );
}

function totals(run) {
  const sum = (name) => run.rules.reduce((total, rule) => total + (rule[name] || 0), 0);
  return {
    jobs: run.jobCount,
    done: sum("done"), failed: sum("failed"), withdrawn: sum("withdrawn"), lost: sum("lost"),
    unfinished: sum("waiting") + sum("running"),
    items: sum("items"), duplicates: sum("duplicates"), reused: sum("reused"), saved: sum("saved_s"),
    over: sum("over"), merged: sum("merged"), leases: sum("leases"),
    loads: run.models.reduce((total, model) => total + model.loads, 0),
    batches: run.batchCount,
  };
}

function tile(title, value, more) {
  return h("div", { class: "tile" }, h("dt", {}, title), h("dd", {}, value), more && h("dd", { class: "more" }, more));
}

function tiles(run) {
  const all = totals(run);
  // Where there are GPUs, the processor's slots stand by.
  const gpus = run.devices.filter((device) => device.kind !== "cpu");
  const busy = (gpus.length ? gpus : run.devices).filter((device) => device.busy_share !== null);
  const share = busy.length ? busy.reduce((sum, device) => sum + device.busy_share, 0) / busy.length : null;
  const left = [[all.failed, "failed"], [all.unfinished, "waiting or running"], [all.withdrawn, "not started"], [all.lost, "cut off"]]
    .filter(([number]) => number).map(([number, word]) => `${count(number)} ${word}`);
  const padded = run.batches.padded.reduce((sum, value) => sum + Math.max(value, 0), 0);
  const tokens = run.batches.tokens.reduce((sum, value, i) => sum + (run.batches.padded[i] > 0 ? value : 0), 0);
  return h("dl", { class: "tiles" },
    tile("Jobs finished", count(all.done), all.jobs ? [`of ${count(all.jobs)}; `, left.length ? left.join(", ") : "none failed, none waiting"] : "no job was served, and none had devices of its own"),
    tile("Items", count(all.items), all.items ? `${count(all.items - all.duplicates - all.reused)} computed, ${count(all.duplicates)} duplicates` + (all.reused ? `, ${count(all.reused)} from earlier runs` : "") : null),
    tile("Spared by duplicates", duration(all.saved), all.items ? `${percent(all.duplicates / all.items)} of the items` : null),
    tile("Devices busy", percent(share), busy.length > 1 ? `mean of ${count(busy.length)} ${gpus.length ? "GPUs" : "devices"} over the whole run` : busy.length ? "over the whole run" : null),
    tile("Batches", count(all.batches), padded ? `${percent(1 - tokens / padded)} of what was computed is padding` : null),
    tile("Model loads", count(all.loads), counted(run.models.length, "model")),
    tile("Jobs over time", count(all.over), "over their rule's runtime, or twice what is usual in it"),
  );
}
