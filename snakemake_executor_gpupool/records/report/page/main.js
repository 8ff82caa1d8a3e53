// Puts the page together, and takes it from one view to another.

const SECTION_NAMES = {
  overview: "Overview",
  failures: "Failures",
  timeline: "Timeline",
  rules: "Rules and tools",
  savings: "Duplicates",
  jobs: "Jobs",
  run: "The run",
};

class Theme {
  constructor(changed) {
    this.changed = changed;
    this.system = window.matchMedia("(prefers-color-scheme: dark)");
    this.system.addEventListener("change", () => this.apply());
    this.chosen = this._stored();
    this.button = h("button", { type: "button", onclick: () => this.turn() });
    this.apply();
  }

  _stored() {
    try {
      const value = localStorage.getItem("gpupool-report-theme");
      return value === "dark" || value === "light" ? value : null;
    } catch {
      return null; // a file that is opened from disk may have no storage
    }
  }

  get isDark() {
    return this.chosen ? this.chosen === "dark" : this.system.matches;
  }

  turn() {
    this.chosen = this.isDark ? "light" : "dark";
    try {
      localStorage.setItem("gpupool-report-theme", this.chosen);
    } catch {
      // it holds for as long as the page is open
    }
    this.apply();
  }

  apply() {
    document.documentElement.dataset.theme = this.isDark ? "dark" : "light";
    this.button.textContent = this.isDark ? "Light colours" : "Dark colours";
    this.changed?.();
  }
}

class Page {
  constructor(run) {
    this.run = run;
    this.theme = new Theme(() => {
      this.timelinePart?.timeline.draw();
      this.timelinePart?.redrawKey(false);
    });
    this.timelinePart = timelineSection(run);
    this.jobs = new JobsSection(run, (job) => (location.hash = jobHash(run, job)));
    const sections = [
      overviewSection(run),
      failuresSection(run),
      this.timelinePart.element,
      rulesSection(run),
      savingsSection(run),
      this.jobs.element,
      aboutSection(run),
    ].filter(Boolean);
    this.report = h("div", { id: "report" }, sections);
    this.own = h("div", { id: "own", hidden: true });
    this.links = sections.map((section) => h("a", { href: `#${section.id}` }, SECTION_NAMES[section.id]));
    const nav = h("nav", { class: "sections", "aria-label": "Sections" }, h("div", { class: "wide" }, h("ul", {}, this.links.map((link) => h("li", {}, link)))));
    document.getElementById("app").append(
      this._top(),
      nav,
      h("main", { class: "wide", id: "main" }, this.report, this.own),
      h("footer", { class: "wide" }, `Made by gpupool. One file: it loads nothing and sends nothing. Times of day are those of this browser's time zone.`),
      h("div", { id: "said", class: "unseen", role: "status", "aria-live": "polite" }),
    );
    this._follow(sections);
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault();
      const target = this.own.hidden ? sections[0] : document.getElementById("job-title");
      this._to(target);
    });
    window.addEventListener("hashchange", () => this.go());
    window.addEventListener("beforeprint", () => this._print(true));
    window.addEventListener("afterprint", () => this._print(false));
  }

  _top() {
    const about = this.run.run;
    const words = { ended: "finished", going: "still going", broken: "the pool failed", killed: "cut off" };
    const failed = this.run.jobs.state.some((state) => STATES[state] === "failed");
    const state = about.state === "ended" ? (failed ? "failed" : "done") : { going: "running", broken: "failed", killed: "failed" }[about.state];
    const word = about.state === "ended" && failed ? "finished with failures" : words[about.state];
    return h("header", { class: "wide top" },
      h("div", {},
        h("h1", {}, `gpupool run ${about.id}`, " ", h("span", { class: `state badge small ${state}` }, word)),
        h("p", { class: "about" }, [moment(about.started_at_s), about.host, about.cwd].filter((text) => text && text !== NONE).join(" · "))),
      this.theme.button);
  }

  /** Mark the section in sight in the navigation: the last that begins in the upper part. */
  _follow(sections) {
    let due = false;
    const look = () => {
      due = false;
      if (this.report.hidden) return;
      const atEnd = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 2;
      const tops = sections.map((section) => section.getBoundingClientRect().top);
      const last = tops.filter((top) => top < 160).length - 1; // they stand in this order
      this._mark(atEnd && window.scrollY > 0 ? sections.length - 1 : Math.max(last, 0));
    };
    window.addEventListener("scroll", () => {
      if (!due) due = Boolean(requestAnimationFrame(look));
    }, { passive: true });
    this._look = look;
  }

  _mark(number) {
    this.links.forEach((link, i) => (i === number ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
  }

  /** Show what the address names: a section, a job's page, a batch, the jobs of a rule. */
  go() {
    const hash = location.hash.slice(1);
    const [, kind, id] = /^(job|batch)-(\d+)$/.exec(hash) || [];
    const job = kind === "job" ? this.run.findJob(Number(id)) : undefined;
    if (job !== undefined) return this._showJob(job);
    this._showReport();
    if (kind === "batch") return this._showBatch(Number(id));
    if (kind === "job") return announce(`There is no job ${id} in this run`);
    if (hash.startsWith("jobs?rule=")) {
      this.jobs.showRule(decodeURIComponent(hash.slice("jobs?rule=".length)));
      return this._to(this.jobs.element);
    }
    const section = hash && document.getElementById(hash);
    if (section && this.report.contains(section)) this._to(section);
  }

  _to(element) {
    element.scrollIntoView();
    element.focus({ preventScroll: true });
  }

  _showJob(job) {
    this.own.replaceChildren(jobPage(this.run, job));
    if (this.own.hidden) this._left = window.scrollY;
    this.report.hidden = true;
    this.own.hidden = false;
    this._mark(this.links.findIndex((link) => link.hash === "#jobs"));
    document.title = `${this.run.title(job)} · gpupool report`;
    window.scrollTo(0, 0);
    document.getElementById("job-title").focus({ preventScroll: true });
  }

  _showReport() {
    if (this.own.hidden) return;
    this.own.hidden = true;
    this.report.hidden = false;
    document.title = this._title ?? document.title;
    window.scrollTo(0, this._left || 0);
    this.timelinePart.timeline._resize();
    this._look();
  }

  _showBatch(id) {
    const batch = this.run.findBatch(id);
    if (batch === undefined) return announce(`There is no batch ${id} in this run`);
    const { timeline, choose, element } = this.timelinePart;
    element.scrollIntoView();
    timeline.showBatch(batch);
    if (timeline.selected) choose(timeline.selected);
    timeline.drawing.focus({ preventScroll: true });
  }

  _print(on) {
    this.timelinePart.timeline.print(on);
    this.timelinePart.redrawKey(on);
    this.jobs.table.print(on);
    for (const details of document.querySelectorAll("details")) {
      if (on) details.dataset.was = details.open ? "open" : "";
      details.open = on || details.dataset.was === "open";
    }
  }
}

async function open() {
  const opening = document.getElementById("opening");
  try {
    const packed = await unpack(document.getElementById("data").textContent.trim());
    const page = new Page(new RunData(packed));
    page._title = document.title;
    document.getElementById("app").hidden = false;
    opening.remove();
    page.timelinePart.timeline._resize();
    page._look();
    page.go();
    document.documentElement.dataset.ready = "true";
  } catch (error) {
    opening.setAttribute("role", "alert");
    opening.textContent = error instanceof CannotOpen ? error.message : `The report could not be opened: ${error}`;
    if (!(error instanceof CannotOpen)) throw error;
  }
}

open();
