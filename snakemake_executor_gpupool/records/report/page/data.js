// The run's data: gzip in base64 in the page. Columns of numbers; times in ticks of 0.1 ms.

const TICK_S = 1e-4;
const STATES = ["waiting", "reading", "running", "writing", "done", "failed", "withdrawn", "lost"];
const STATE_WORDS = {
  waiting: "waiting",
  reading: "reading inputs",
  running: "running",
  writing: "writing outputs",
  done: "finished",
  failed: "failed",
  withdrawn: "not started",
  lost: "cut off",
};

class CannotOpen extends Error {}

async function unpack(base64) {
  if (typeof DecompressionStream === "undefined") {
    throw new CannotOpen(
      "This browser is too old to open the report: it cannot decompress data (DecompressionStream). " +
        "Chromium from 85, Firefox from 113 and Safari from 16.4 can. The same figures are in the files " +
        "beside it: summary.json, jobs.tsv and events.jsonl.",
    );
  }
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** Numbers of a column; `steps` has the differences from one to the next. */
function column(packed) {
  if (Array.isArray(packed)) return packed;
  let sum = 0;
  return packed.steps.map((step) => (sum += step));
}

function columns(table) {
  const out = {};
  for (const [name, packed] of Object.entries(table)) out[name] = column(packed);
  return out;
}

/** The whole run, with ways from one thing to another. */
class RunData {
  constructor(packed) {
    Object.assign(this, packed);
    this.jobs = columns(packed.jobs);
    this.batches = columns(packed.batches);
    this.parts = columns(packed.parts);
    this.spans = columns(packed.spans);
    this.marks = columns(packed.marks);
    this.holds = columns(packed.holds);
    this._findParts();
  }

  get jobCount() {
    return this.jobs.state.length;
  }

  get batchCount() {
    return this.batches.start.length;
  }

  /** Which parts belong to which batch and which job. */
  _findParts() {
    const perBatch = this.batches.parts;
    const owner = this.parts.job; // each number is the step from the one before in the same batch
    this.firstPart = new Int32Array(perBatch.length + 1);
    this.batchOfPart = new Int32Array(owner.length);
    const perJob = new Int32Array(this.jobCount + 1);
    let at = 0;
    for (let batch = 0; batch < perBatch.length; batch++) {
      this.firstPart[batch] = at;
      let job = 0;
      for (let i = 0; i < perBatch[batch]; i++, at++) {
        job += owner[at];
        owner[at] = job;
        this.batchOfPart[at] = batch;
        perJob[job + 1]++;
      }
    }
    this.firstPart[perBatch.length] = at;
    for (let job = 0; job < this.jobCount; job++) perJob[job + 1] += perJob[job];
    this.firstOfJob = perJob;
    const next = perJob.slice();
    this.partsByJob = new Int32Array(owner.length);
    for (let part = 0; part < owner.length; part++) this.partsByJob[next[owner[part]]++] = part;
  }

  partsOfBatch(batch) {
    const out = [];
    for (let part = this.firstPart[batch]; part < this.firstPart[batch + 1]; part++) out.push(part);
    return out;
  }

  partsOfJob(job) {
    return Array.from(this.partsByJob.subarray(this.firstOfJob[job], this.firstOfJob[job + 1]));
  }

  batchesOfJob(job) {
    return this.firstOfJob[job + 1] - this.firstOfJob[job];
  }

  /** The other jobs that were in a batch with this one; counted once for all jobs. */
  sharedWith(job) {
    if (!this._shared) this._shared = new Int32Array(this.jobCount).fill(-1);
    if (this._shared[job] < 0) this._shared[job] = this.companions(job).size;
    return this._shared[job];
  }

  companions(job) {
    const seen = new Map();
    for (let i = this.firstOfJob[job]; i < this.firstOfJob[job + 1]; i++) {
      const batch = this.batchOfPart[this.partsByJob[i]];
      for (let part = this.firstPart[batch]; part < this.firstPart[batch + 1]; part++) {
        const other = this.parts.job[part];
        if (other !== job) seen.set(other, (seen.get(other) || 0) + 1);
      }
    }
    return seen;
  }

  ruleOf(job) {
    return this.rules[this.jobs.rule[job]];
  }

  /** What messages call a job: rule and wildcards. */
  title(job) {
    const words = this.jobs.words[job];
    return this.ruleOf(job).name + (words ? ` (${words})` : "");
  }

  state(job) {
    return STATES[this.jobs.state[job]];
  }

  /** A column's seconds; null where there is none. */
  seconds(name, job) {
    const ticks = this.jobs[name][job];
    return ticks < 0 ? null : ticks * TICK_S;
  }

  /** Device seconds that a job was charged. */
  deviceSeconds(job) {
    const value = this.jobs.device_us[job];
    return value < 0 ? null : value / 1e6;
  }

  isLease(job) {
    return this.jobs.lease[job] === 1;
  }

  isOver(job) {
    return this.jobs.state[job] >= 4;
  }

  /** From a job's submission to its end; up to now where it has not come. */
  turnaround(job) {
    const { submitted, ended } = this.jobs;
    return ((ended[job] < 0 ? this.ticks : ended[job]) - submitted[job]) * TICK_S;
  }

  /** Share of a batch's computed tokens that are padding; null: not known. */
  padding(batch) {
    const { padded, tokens } = this.batches;
    return padded[batch] > 0 ? Math.max(0, 1 - tokens[batch] / padded[batch]) : null;
  }

  tokensPerSecond(batch) {
    const { us, tokens } = this.batches;
    return us[batch] > 0 ? (tokens[batch] * 1e6) / us[batch] : null;
  }

  /** The files' spans of a job: reading, writing, putting in place. */
  spansOfJob(job) {
    if (!this._spansByJob) {
      this._spansByJob = new Map();
      this.spans.job.forEach((owner, span) => {
        if (owner < 0) return;
        if (!this._spansByJob.has(owner)) this._spansByJob.set(owner, []);
        this._spansByJob.get(owner).push(span);
      });
    }
    return this._spansByJob.get(job) || [];
  }

  text(number) {
    return number < 0 ? "" : this.texts[number];
  }

  findJob(id) {
    if (!this._jobById) this._jobById = new Map(this.jobs.id.map((value, job) => [value, job]));
    return this._jobById.get(id);
  }

  findBatch(id) {
    if (!this._batchById) this._batchById = new Map(this.batches.id.map((value, batch) => [value, batch]));
    return this._batchById.get(id);
  }
}
