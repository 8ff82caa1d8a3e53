// The timeline: drawn on a canvas, of which only the rows and the time in sight are drawn.

const DEVICE_PX = 26;
const WORKER_PX = 20;
const AXIS_PX = 22;
const MINI_PX = 40;
const MIN_TICKS = 20; // the narrowest view: 2 ms

class Timeline {
  /** describe(hit): text lines of what is there. choose(hit): it was clicked, or Enter pressed. */
  constructor(run, { describe, choose }) {
    Object.assign(this, { run, describe, choose });
    this.groups = buildLanes(run);
    this.view = [0, Math.max(run.ticks, MIN_TICKS)];
    this.selected = null; // {lane, at}: a span by its place in its lane
    this.curve = busyCurve(run, this.groups, 600);
    this._build();
    this._layOut();
  }

  _build() {
    this.axis = h("canvas", { class: "mini", "aria-hidden": "true" });
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.drawing = h("div", {
      class: "drawing",
      tabindex: 0,
      role: "application",
      "aria-label": "Timeline of devices and workers",
      "aria-roledescription": "timeline",
      "aria-describedby": "timeline-keys",
    }, this.canvas);
    this.labels = h("div", { class: "labels" });
    this.rows = h("div", { class: "rows", tabindex: -1 }, this.labels, h("div", { class: "pane" }, this.drawing));
    this.element = h("div", { class: "timeline" },
      h("div", { class: "heads" }, h("div", { class: "label" }, "Devices busy"), this.axis),
      this.rows,
    );
    new TimelineInput(this);
    this.rows.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this._resize()).observe(this.element);
  }

  /** Which lanes there are, from the top down, and where. */
  _layOut() {
    this.lanes = [];
    let y = 0;
    for (const group of this.groups) {
      this.lanes.push({ lane: group, y, height: DEVICE_PX });
      y += DEVICE_PX;
      if (!group.isOpen) continue;
      for (const child of group.children) {
        this.lanes.push({ lane: child, y, height: WORKER_PX });
        y += WORKER_PX;
      }
    }
    this.height = y;
    this.labels.replaceChildren(...this.lanes.map(({ lane, height }) => this._label(lane, height)));
    if (this.selected && !this.lanes.some(({ lane }) => lane === this.selected.lane)) this.selected = null;
    this._resize();
  }

  _label(lane, height) {
    const isDevice = lane.kind === "device";
    const toggle = isDevice && lane.children.length
      ? h("button", {
          type: "button",
          "aria-expanded": String(lane.isOpen),
          "aria-label": `Workers of ${lane.name}`,
          onclick: () => {
            lane.isOpen = !lane.isOpen;
            this._layOut();
            this.labels.querySelectorAll("button")[this.groups.filter((group) => group.children.length).indexOf(lane)]?.focus();
          },
        }, lane.isOpen ? "▾" : "▸")
      : isDevice && h("span", { class: "unseen" }, "");
    const row = h("div", { class: `label-row ${isDevice ? "device" : "worker"}`, title: [lane.name, lane.title].filter(Boolean).join(", ") },
      toggle,
      h("span", { class: "name" }, lane.name),
      lane.share !== null && h("span", { class: "share" }, `${percent(lane.share)} busy`),
    );
    row.style.height = `${height}px`;
    return row;
  }

  _resize() {
    const pane = this.drawing.parentElement;
    const width = pane.clientWidth;
    if (!width) return;
    const height = this.onPaper ? this.height : Math.max(DEVICE_PX, Math.min(this.height, this.rows.clientHeight || this.height));
    this.width = width;
    this.seen = height;
    this._size(this.canvas, width, height);
    this._size(this.axis, width, MINI_PX + AXIS_PX);
    this.drawNow();
  }

  _size(canvas, width, height) {
    const ratio = this.onPaper ? 2 : window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
    canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  // -- what is in sight ---------------------------------------------------------
  x(time) {
    return ((time - this.view[0]) / (this.view[1] - this.view[0])) * this.width;
  }

  time(x) {
    return this.view[0] + (x / this.width) * (this.view[1] - this.view[0]);
  }

  /** Show a stretch of time, within the run and no narrower than the bound. */
  look(start, end) {
    const whole = Math.max(this.run.ticks, MIN_TICKS);
    const length = Math.min(Math.max(end - start, MIN_TICKS), whole);
    const from = Math.min(Math.max(0, start), whole - length);
    this.view = [from, from + length];
    this.draw();
  }

  zoom(factor, x = this.width / 2) {
    const at = this.time(x);
    const [start, end] = this.view;
    const length = Math.min(Math.max((end - start) * factor, MIN_TICKS), Math.max(this.run.ticks, MIN_TICKS));
    const from = at - ((at - start) / (end - start)) * length;
    this.look(from, from + length);
  }

  pan(pixels) {
    const ticks = (pixels / this.width) * (this.view[1] - this.view[0]);
    this.look(this.view[0] + ticks, this.view[1] + ticks);
  }

  fit() {
    this.look(0, this.run.ticks);
  }

  /** Bring a batch into sight and select it. */
  showBatch(batch) {
    const worker = this.run.batches.worker[batch];
    const device = this.run.workers[worker].devices[0];
    const group = this.groups[device];
    if (!group) return;
    const lane = group.isOpen ? group.children.find((child) => child.name === this.run.workers[worker].name) : group;
    const at = lane.spans.findIndex(([, , kind, number]) => kind === "batch" && number === batch);
    if (at < 0) return;
    const [start, end] = lane.spans[at];
    const length = Math.max((end - start) * 8, MIN_TICKS);
    this.look((start + end - length) / 2, (start + end + length) / 2);
    this.select(lane, at);
  }

  select(lane, at) {
    this.selected = { lane, at };
    const row = this.lanes.find((each) => each.lane === lane);
    if (row) {
      const top = this.rows.scrollTop;
      if (row.y < top) this.rows.scrollTop = row.y;
      else if (row.y + row.height > top + this.seen) this.rows.scrollTop = row.y + row.height - this.seen;
    }
    const [start, end] = lane.spans[at];
    const length = this.view[1] - this.view[0];
    if (end < this.view[0] || start > this.view[1]) this.look((start + end - length) / 2, (start + end + length) / 2);
    this.draw();
  }

  /** What is at a point of the drawing: a mark, a span, or that a worker is idle there. */
  hit(x, y) {
    const row = this.lanes.find((each) => y + this.rows.scrollTop >= each.y && y + this.rows.scrollTop < each.y + each.height);
    if (!row) return null;
    const { lane } = row;
    const time = this.time(x);
    const tick = (this.view[1] - this.view[0]) / this.width;
    const mark = lane.marks.find(([at]) => Math.abs(at - time) < 6 * tick);
    if (mark) return { lane, mark };
    let best = null;
    for (let at = lane.from(time - 2 * tick); at < lane.spans.length && lane.spans[at][0] <= time + 2 * tick; at++) {
      const [start, end] = lane.spans[at];
      const off = Math.max(start - time, time - end, 0);
      if (off <= 2 * tick && (!best || off <= best.off)) best = { lane, at, off };
    }
    if (best) return { lane, at: best.at };
    if (lane.kind !== "device" && time >= lane.born && time <= lane.ended) return { lane, idle: this._gap(lane, time) };
    return null;
  }

  _gap(lane, time) {
    const after = lane.from(time);
    const start = after > 0 ? lane.latest[after - 1] : lane.born;
    const end = after < lane.spans.length ? lane.spans[after][0] : lane.ended;
    return [start, end];
  }

  // -- drawing ---------------------------------------------------------------------
  draw() {
    if (this._due) return;
    this._due = requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    cancelAnimationFrame(this._due);
    this._due = 0;
    if (!this.width) return;
    this.colours = pageColours(this.onPaper);
    const pen = this.canvas.getContext("2d");
    this.paint = new Paint(pen, this.colours);
    pen.fillStyle = this.colours.back;
    pen.fillRect(0, 0, this.width, this.seen);
    const step = axisStep((this.view[1] - this.view[0]) * TICK_S, this.width);
    const top = this.onPaper ? 0 : this.rows.scrollTop;
    const inSight = this.lanes.filter(({ y, height }) => y + height > top && y < top + this.seen);
    for (const { lane, y, height } of inSight) {
      if (lane.kind !== "device") continue;
      pen.fillStyle = this.colours.band;
      pen.fillRect(0, y - top, this.width, height);
    }
    this._grid(pen, step, 0, this.seen);
    for (const { lane, y, height } of inSight) this._lane(pen, lane, y - top, height);
    for (const { lane, y, height } of inSight) this._marks(lane, y - top, height);
    this._axis(step);
  }

  _grid(pen, step, top, height) {
    pen.fillStyle = this.colours.line;
    for (const second of this._steps(step)) pen.fillRect(Math.round(this.x(second / TICK_S)), top, 1, height);
  }

  _steps(step) {
    const first = Math.ceil((this.view[0] * TICK_S) / step - 1e-9);
    const last = Math.floor((this.view[1] * TICK_S) / step + 1e-9);
    return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step);
  }

  _lane(pen, lane, y, height) {
    const inset = lane.kind === "device" ? 4 : 3;
    const [top, tall] = [y + inset, height - 2 * inset];
    const idle = (from, to) => { // alive, and at nothing
      if (lane.kind === "device" || to - from < 2) return;
      pen.fillStyle = this.colours.idle;
      pen.fillRect(from, y + height / 2 - 1, to - from, 2);
    };
    const left = Math.max(0, this.x(lane.born));
    let reached = -1; // the last pixel that is filled: what falls into it as a whole adds nothing
    for (let at = lane.from(this.view[0]); at < lane.spans.length; at++) {
      const [start, end, kind, number] = lane.spans[at];
      if (start > this.view[1]) break;
      const from = this.x(start);
      const to = this.x(end);
      if (to <= reached && to - from < 1) continue;
      idle(Math.max(reached, left), from);
      this._span(pen, Math.max(from, -2), Math.min(to, this.width + 2), top, tall, kind, number);
      reached = Math.max(reached, Math.floor(Math.max(to, from + 1)));
    }
    idle(Math.max(reached, left), Math.min(this.width, this.x(lane.ended)));
    this._frame(pen, lane, top, tall);
  }

  _span(pen, from, to, top, tall, kind, number) {
    const model = kind === "batch" ? this.run.workers[this.run.batches.worker[number]].colour : 0;
    const wide = to - from;
    pen.fillStyle = wide < 5 ? this.paint.plainFill(kind, model) : this.paint.fill(kind, model);
    if (wide < 3) {
      pen.fillRect(from, top, Math.max(wide, 1), tall);
      return;
    }
    pen.fillRect(from, top, wide - 1, tall);
    if (wide > 46) this._word(pen, from, wide, top, tall, kind, number, model);
  }

  _word(pen, from, wide, top, tall, kind, number, model) {
    const text = this.label(kind, number);
    pen.font = `${tall > 16 ? 12 : 11}px system-ui, "DejaVu Sans", sans-serif`;
    const room = wide - 10;
    let shown = text;
    if (pen.measureText(shown).width > room) {
      const letters = Math.floor((shown.length * room) / pen.measureText(shown).width) - 1;
      if (letters < 3) return;
      shown = `${shown.slice(0, letters)}…`;
    }
    const width = pen.measureText(shown).width;
    const x = from + 5;
    if (kind !== "batch") { // words on a pattern stand on a plain ground
      pen.fillStyle = this.paint.plainFill(kind, model);
      pen.fillRect(x - 3, top, width + 6, tall);
    }
    pen.fillStyle = kind === "batch" && model % BATCH_FILLS.length === 0 ? "#ffffff" : "#10141a";
    pen.textBaseline = "middle";
    pen.fillText(shown, x, top + tall / 2 + 0.5);
  }

  label(kind, number) {
    const { run } = this;
    if (kind === "batch") {
      const of = run.models.length > 1 ? `${run.workers[run.batches.worker[number]].model} · ` : "";
      return `${run.batches.id[number]} · ${of}${counted(run.batches.items[number], "item")}`;
    }
    const job = kind === "lease" ? run.holds.job[number] : run.spans.job[number];
    if (job >= 0) return kind === "lease" ? run.title(job) : `${kind} ${run.title(job)}`;
    const model = kind === "load" && run.workers[run.spans.worker[number]].model;
    return model ? `load ${model}` : kind;
  }

  _frame(pen, lane, top, tall) {
    if (this.selected?.lane !== lane || this.onPaper) return;
    const [start, end] = lane.spans[this.selected.at];
    const [from, to] = [this.x(start), this.x(end)];
    pen.strokeStyle = this.colours.chosen;
    pen.lineWidth = 3;
    pen.strokeRect(from - 1.5, top - 1.5, Math.max(to - from, 2) + 2, tall + 3);
  }

  _marks(lane, y, height) {
    let last = -9;
    for (const [time, kind] of lane.marks) {
      if (time < this.view[0] || time > this.view[1]) continue;
      const x = this.x(time);
      if (x - last < 3) continue;
      last = x;
      this.paint.mark(kind, x, y + height / 2);
    }
  }

  /** The axis, and above it how busy the whole run was, with the stretch in sight. */
  _axis(step) {
    const pen = this.axis.getContext("2d");
    const { colours, width } = this;
    pen.fillStyle = colours.back;
    pen.fillRect(0, 0, width, MINI_PX + AXIS_PX);
    pen.fillStyle = colours.band;
    pen.fillRect(0, 0, width, MINI_PX);
    pen.fillStyle = "#0072b2";
    const bin = width / this.curve.length;
    this.curve.forEach((share, i) => pen.fillRect(i * bin, MINI_PX - share * (MINI_PX - 4), bin + 0.5, share * (MINI_PX - 4)));
    const whole = Math.max(this.run.ticks, MIN_TICKS);
    const [from, to] = [(this.view[0] / whole) * width, (this.view[1] / whole) * width];
    if (to - from < width - 1) {
      pen.fillStyle = colours.dark ? "rgb(18 22 27 / 65%)" : "rgb(255 255 255 / 70%)";
      pen.fillRect(0, 0, from, MINI_PX);
      pen.fillRect(to, 0, width - to, MINI_PX);
      pen.strokeStyle = colours.chosen;
      pen.lineWidth = 2;
      pen.strokeRect(from + 1, 1, Math.max(to - from - 2, 2), MINI_PX - 2);
    }
    pen.fillStyle = colours.line;
    pen.fillRect(0, MINI_PX, width, 1);
    pen.font = '11px system-ui, "DejaVu Sans", sans-serif';
    pen.textBaseline = "middle";
    for (const second of this._steps(step)) {
      const x = Math.round(this.x(second / TICK_S));
      pen.fillStyle = colours.line;
      pen.fillRect(x, MINI_PX, 1, AXIS_PX);
      const text = axisLabel(second, step);
      pen.fillStyle = colours.muted;
      if (x + 4 + pen.measureText(text).width < width) pen.fillText(text, x + 4, MINI_PX + AXIS_PX / 2 + 1);
    }
  }

  print(on) {
    this.onPaper = on;
    if (on) this._before = this.view;
    this._resize();
  }
}
