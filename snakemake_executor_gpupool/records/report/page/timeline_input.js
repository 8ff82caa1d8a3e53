// How the timeline is moved: by wheel, by dragging, by keys.

class TimelineInput {
  constructor(timeline) {
    this.timeline = timeline;
    const { drawing, axis } = timeline;
    this.tip = h("div", { class: "tip", hidden: true });
    document.body.append(this.tip);
    drawing.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
    drawing.addEventListener("pointerdown", (event) => this._down(event));
    drawing.addEventListener("pointermove", (event) => this._move(event));
    drawing.addEventListener("pointerleave", () => (this.tip.hidden = true));
    drawing.addEventListener("dblclick", (event) => timeline.zoom(0.25, event.offsetX));
    drawing.addEventListener("keydown", (event) => this._key(event));
    drawing.addEventListener("focus", () => this._focused());
    axis.addEventListener("pointerdown", (event) => this._jump(event));
    this.scrolledAt = 0;
    window.addEventListener("wheel", (event) => {
      if (!drawing.contains(event.target)) this.scrolledAt = event.timeStamp;
    }, { passive: true });
  }

  /** The wheel zooms, unless it is just carrying the page past the timeline. */
  _wheel(event) {
    if (event.timeStamp - this.scrolledAt < 350 && !event.ctrlKey) {
      this.scrolledAt = event.timeStamp;
      return;
    }
    event.preventDefault();
    this.tip.hidden = true;
    const { timeline } = this;
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
      timeline.pan(event.deltaX || event.deltaY);
      return;
    }
    const lines = event.deltaMode === 1 ? 30 : 1;
    const turn = Math.max(-200, Math.min(200, event.deltaY * lines));
    timeline.zoom(Math.exp(turn * 0.0025), event.offsetX);
  }

  _down(event) {
    if (event.button !== 0) return;
    const { timeline } = this;
    this.drag = { x: event.clientX, y: event.clientY, view: timeline.view, moved: false };
    timeline.drawing.setPointerCapture(event.pointerId);
    const up = () => {
      timeline.drawing.removeEventListener("pointerup", up);
      timeline.drawing.removeEventListener("pointercancel", up);
      timeline.drawing.classList.remove("dragging");
      if (!this.drag.moved) this._click(event);
      this.drag = null;
    };
    timeline.drawing.addEventListener("pointerup", up);
    timeline.drawing.addEventListener("pointercancel", up);
  }

  _move(event) {
    const { timeline, drag } = this;
    if (drag) {
      const off = event.clientX - drag.x;
      if (Math.abs(off) > 3) drag.moved = true;
      if (drag.moved) {
        timeline.drawing.classList.add("dragging");
        const ticks = (off / timeline.width) * (drag.view[1] - drag.view[0]);
        timeline.look(drag.view[0] - ticks, drag.view[1] - ticks);
        this.tip.hidden = true;
      }
      return;
    }
    this._hover(event);
  }

  _hover(event) {
    const { timeline } = this;
    const place = timeline.canvas.getBoundingClientRect();
    const hit = timeline.hit(event.clientX - place.left, event.clientY - place.top);
    this.tip.hidden = !hit;
    if (!hit) return;
    const [first, ...rest] = timeline.describe(hit);
    this.tip.replaceChildren(h("b", {}, first), ...rest.map((line) => h("div", {}, line)));
    const { offsetWidth, offsetHeight } = this.tip;
    const left = Math.min(event.clientX + 14, window.innerWidth - offsetWidth - 8);
    const below = event.clientY + 18 + offsetHeight < window.innerHeight;
    this.tip.style.left = `${Math.max(4, left)}px`;
    this.tip.style.top = `${below ? event.clientY + 18 : event.clientY - offsetHeight - 12}px`;
  }

  _click(event) {
    const { timeline } = this;
    const place = timeline.canvas.getBoundingClientRect();
    const hit = timeline.hit(event.clientX - place.left, event.clientY - place.top);
    if (!hit) return;
    if (hit.at !== undefined) timeline.select(hit.lane, hit.at);
    timeline.choose(hit);
  }

  /** A click or a drag on the overview moves the stretch in sight there. */
  _jump(event) {
    const { timeline } = this;
    const move = (x) => {
      const share = (x - timeline.axis.getBoundingClientRect().left) / timeline.width;
      const length = timeline.view[1] - timeline.view[0];
      timeline.look(share * timeline.run.ticks - length / 2, share * timeline.run.ticks + length / 2);
    };
    timeline.axis.setPointerCapture(event.pointerId);
    const follow = (each) => move(each.clientX);
    const up = () => {
      timeline.axis.removeEventListener("pointermove", follow);
      timeline.axis.removeEventListener("pointerup", up);
    };
    timeline.axis.addEventListener("pointermove", follow);
    timeline.axis.addEventListener("pointerup", up);
    move(event.clientX);
  }

  _focused() {
    if (this.timeline.selected) this._say();
  }

  _key(event) {
    if (event.altKey || event.metaKey || event.ctrlKey) return;
    const { timeline } = this;
    const far = timeline.width / 5;
    const actions = {
      ArrowRight: () => (event.shiftKey ? timeline.pan(far) : this._step(1)),
      ArrowLeft: () => (event.shiftKey ? timeline.pan(-far) : this._step(-1)),
      ArrowDown: () => this._change(1),
      ArrowUp: () => this._change(-1),
      d: () => timeline.pan(far),
      a: () => timeline.pan(-far),
      "+": () => timeline.zoom(0.5, this._middle()),
      "=": () => timeline.zoom(0.5, this._middle()),
      w: () => timeline.zoom(0.5, this._middle()),
      "-": () => timeline.zoom(2, this._middle()),
      s: () => timeline.zoom(2, this._middle()),
      0: () => timeline.fit(),
      Home: () => this._end(0),
      End: () => this._end(-1),
      Enter: () => timeline.selected && timeline.choose(timeline.selected),
      Escape: () => ((timeline.selected = null), timeline.draw()),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    this.tip.hidden = true;
    actions[event.key]();
  }

  /** Where keys zoom: at what is selected, if that is in sight. */
  _middle() {
    const { timeline } = this;
    if (!timeline.selected) return timeline.width / 2;
    const [start, end] = timeline.selected.lane.spans[timeline.selected.at];
    const x = timeline.x((start + end) / 2);
    return x >= 0 && x <= timeline.width ? x : timeline.width / 2;
  }

  _lanes() {
    return this.timeline.lanes.map(({ lane }) => lane).filter((lane) => lane.spans.length);
  }

  _step(by) {
    const { timeline } = this;
    if (!timeline.selected) {
      const lane = this._lanes()[0];
      if (!lane) return;
      timeline.select(lane, Math.min(lane.from(timeline.view[0]), lane.spans.length - 1));
    } else {
      const { lane, at } = timeline.selected;
      timeline.select(lane, Math.max(0, Math.min(lane.spans.length - 1, at + by)));
    }
    this._say();
  }

  /** To the lane above or below, at about the same time. */
  _change(by) {
    const { timeline } = this;
    const lanes = this._lanes();
    if (!timeline.selected) {
      this._step(0);
      return;
    }
    const now = lanes.indexOf(timeline.selected.lane);
    const lane = lanes[Math.max(0, Math.min(lanes.length - 1, now + by))];
    const [start] = timeline.selected.lane.spans[timeline.selected.at];
    timeline.select(lane, Math.min(lane.from(start), lane.spans.length - 1));
    this._say();
  }

  _end(at) {
    const lane = this.timeline.selected?.lane || this._lanes()[0];
    if (!lane) return;
    this.timeline.select(lane, at < 0 ? lane.spans.length - 1 : 0);
    this._say();
  }

  _say() {
    const { timeline } = this;
    const lines = timeline.describe(timeline.selected);
    announce(`${timeline.selected.lane.name}: ${lines.join(", ")}`);
    timeline.focused?.(timeline.selected);
  }
}
