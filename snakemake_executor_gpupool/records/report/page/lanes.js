// What the timeline shows: a lane for each device, and below it one for each worker on it; then
// the processes that read and write.

const KIND_WORDS = {
  batch: "computing a batch",
  start: "starting",
  import: "importing the tool",
  load: "loading a model",
  move: "moving weights",
  away: "weights in host memory",
  lease: "a plain GPU job",
  read: "reading inputs",
  write: "writing outputs",
  publish: "putting merged outputs in place",
  stop: "ending",
};
const MARK_WORDS = {
  evicted: "eviction",
  worker_died: "death",
  out_of_memory: "out of memory",
  device_refused: "device refused",
  note: "note",
};
// As the data's columns number them.
const SPAN_KINDS = ["start", "import", "load", "move", "away", "read", "write", "publish", "stop"];
const MARK_KINDS = ["evicted", "worker_died", "out_of_memory", "device_refused", "note"];

class Lane {
  constructor(kind, name, { share = null, title = "", born = 0, ended = 0 } = {}) {
    Object.assign(this, { kind, name, share, title, born, ended });
    this.spans = []; // [start, end, kind, number], in ticks
    this.marks = []; // [time, kind, text]
    this.children = [];
    this.isOpen = true;
  }

  sort() {
    this.spans.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    this.marks.sort((a, b) => a[0] - b[0]);
    // Ends grow with starts in a lane of one thing at a time; where things overlap, the latest end
    // so far says where a search has to begin.
    let latest = 0;
    this.latest = Float64Array.from(this.spans, ([, end]) => (latest = Math.max(latest, end)));
  }

  /** The first span that ends after a time. */
  from(time) {
    let [low, high] = [0, this.spans.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.latest[middle] < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** The lane of each worker, with all that it did. */
function workerLanes(run) {
  const lanes = run.workers.map((worker) => {
    const lane = new Lane(worker.for_files ? "files" : "worker", worker.name, { title: worker.model || worker.tool });
    lane.born = worker.start < 0 ? 0 : worker.start;
    lane.ended = worker.end < 0 ? run.ticks : worker.end;
    return lane;
  });
  const { batches, spans } = run;
  for (let i = 0; i < batches.start.length; i++) {
    lanes[batches.worker[i]].spans.push([batches.start[i], batches.start[i] + batches.ticks[i], "batch", i]);
  }
  for (let i = 0; i < spans.start.length; i++) {
    lanes[spans.worker[i]].spans.push([spans.start[i], spans.start[i] + spans.ticks[i], SPAN_KINDS[spans.kind[i]], i]);
  }
  return lanes;
}

function addMarks(run, workers, devices) {
  const { marks } = run;
  for (let i = 0; i < marks.time.length; i++) {
    const mark = [marks.time[i], MARK_KINDS[marks.kind[i]], run.text(marks.text[i])];
    if (marks.worker[i] >= 0) workers[marks.worker[i]].marks.push(mark);
    else if (marks.device[i] >= 0) devices[marks.device[i]].marks.push(mark);
  }
}

/** Lanes in groups: one for each device, then one of what reads and writes files. */
function buildLanes(run) {
  const workers = workerLanes(run);
  const devices = run.devices.map((device) => new Lane("device", device.name, { share: device.busy_share, title: device.model, ended: run.ticks }));
  addMarks(run, workers, devices);
  const files = new Lane("device", "Reading and writing", { ended: run.ticks });
  files.isOpen = false;
  run.workers.forEach((worker, number) => {
    for (const group of worker.for_files ? [files] : worker.devices.map((device) => devices[device])) {
      group.children.push(workers[number]);
      for (const span of workers[number].spans) group.spans.push(span);
      group.marks.push(...workers[number].marks);
    }
  });
  for (let i = 0; i < run.holds.start.length; i++) {
    devices[run.holds.device[i]].spans.push([run.holds.start[i], run.holds.start[i] + run.holds.ticks[i], "lease", i]);
  }
  const groups = files.children.length ? [...devices, files] : devices;
  for (const lane of [...groups, ...workers]) lane.sort();
  const rows = groups.reduce((sum, group) => sum + 1 + group.children.length, 0);
  if (rows > 48) groups.forEach((group) => (group.isOpen = false));
  return groups;
}

/** How busy the devices were together: for each of so many stretches the share that computed. */
function busyCurve(run, groups, bins) {
  const curve = new Float64Array(bins);
  const scale = bins / Math.max(run.ticks, 1);
  const lanes = groups.slice(0, run.devices.length);
  for (const lane of lanes) {
    const own = new Float64Array(bins);
    for (const [start, end, kind] of lane.spans) {
      if (kind !== "batch" && kind !== "lease") continue;
      const [from, to] = [start * scale, Math.min(end * scale, bins)];
      for (let bin = Math.floor(from); bin < to; bin++) own[bin] += Math.min(bin + 1, to) - Math.max(bin, from);
    }
    own.forEach((value, bin) => (curve[bin] += Math.min(1, value) / lanes.length));
  }
  return curve;
}
