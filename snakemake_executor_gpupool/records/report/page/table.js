// A table of very many rows: only those in sight are in the page. Sorted by its headings, gone
// through by the arrow keys.

const ROW_PX = 32;
const PRINTED_ROWS = 60;

class BigTable {
  /**
   * columns: {title, width, number, cell(row), sort(row)}; rows are numbers. open(row): on Enter or
   * click. label: what the table is.
   */
  constructor({ label, columns, rows, open, sortedBy = 0, descending = false }) {
    Object.assign(this, { label, columns, open, sortedBy, descending });
    this.all = rows;
    this.current = -1;
    this._build();
    this.show(rows);
  }

  _build() {
    this.heads = this.columns.map((column, number) =>
      h(
        "th",
        { scope: "col", class: column.number ? "number" : null },
        h("button", { type: "button", onclick: () => this.sortBy(number) }, column.title),
      ),
    );
    this.body = h("tbody");
    this.table = h(
      "table",
      { "aria-label": this.label },
      h("colgroup", {}, this.columns.map(() => h("col"))),
      h("thead", {}, h("tr", { "aria-rowindex": 1 }, this.heads)),
      this.body,
    );
    this.table.querySelectorAll("col").forEach((col, i) => (col.style.width = this.columns[i].width || ""));
    this.element = h("div", { class: "grid", tabindex: 0, role: "region", "aria-label": `${this.label}; arrow keys go through the rows, Enter opens one` }, this.table);
    this.element.addEventListener("scroll", () => this._draw());
    this.element.addEventListener("keydown", (event) => this._key(event));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-at]");
      if (row && !event.target.closest("a")) this._choose(Number(row.dataset.at), true);
    });
    new ResizeObserver(() => this._draw()).observe(this.element);
  }

  /** Show these rows, in the order that is set. */
  show(rows) {
    this.shown = rows.slice();
    this._sort();
    this.current = -1;
    this.element.scrollTop = 0;
    this._redraw();
  }

  sortBy(number) {
    this.descending = number === this.sortedBy ? !this.descending : Boolean(this.columns[number].number);
    this.sortedBy = number;
    this._sort();
    this.current = -1;
    this._redraw();
    announce(`Sorted by ${this.columns[number].title}, ${this.descending ? "largest" : "smallest"} first`);
  }

  _sort() {
    const { sort } = this.columns[this.sortedBy];
    const keys = new Map(this.shown.map((row) => [row, sort(row)]));
    const sign = this.descending ? -1 : 1;
    const compare = (a, b) => (typeof a === "string" ? collator.compare(a, b) : a - b);
    this.shown.sort((a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      const none = (x === null) - (y === null); // rows without a value come last either way
      return none || sign * compare(x, y) || a - b;
    });
    this.heads.forEach((head, number) => {
      const order = this.descending ? "descending" : "ascending";
      if (number === this.sortedBy) head.setAttribute("aria-sort", order);
      else head.removeAttribute("aria-sort");
    });
  }

  _redraw() {
    this.table.setAttribute("aria-rowcount", this.shown.length + 1);
    this.element.classList.toggle("short", this.shown.length <= 12);
    this._drawn = "";
    this._draw();
  }

  _draw() {
    if (this.printing) return;
    const height = this.element.clientHeight || 600;
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW_PX) - 8);
    const last = Math.min(this.shown.length, first + Math.ceil(height / ROW_PX) + 16);
    const key = `${first} ${last} ${this.current}`;
    if (key === this._drawn) return;
    this._drawn = key;
    this._fill(first, last);
  }

  _fill(first, last) {
    const rows = [];
    const space = (count) => {
      const cell = h("td", { colspan: this.columns.length });
      cell.style.height = `${count * ROW_PX}px`;
      return h("tr", { class: "space", "aria-hidden": "true" }, cell);
    };
    if (first > 0) rows.push(space(first));
    for (let at = first; at < last; at++) rows.push(this._row(at));
    if (last < this.shown.length) rows.push(space(this.shown.length - last));
    this.body.replaceChildren(...rows);
  }

  _row(at) {
    const cells = this.columns.map((column) => {
      const content = column.cell(this.shown[at]);
      const title = typeof content === "string" ? content : null;
      return h("td", { class: column.number ? "number" : null, title }, content);
    });
    const current = at === this.current;
    return h("tr", { "data-at": at, "aria-rowindex": at + 2, class: current ? "current" : null, "aria-selected": current ? "true" : null }, cells);
  }

  _key(event) {
    if (event.target !== this.element) return;
    const page = Math.max(1, Math.floor(this.element.clientHeight / ROW_PX) - 2);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in moves) {
      const target = this.current + moves[event.key];
      this._choose(Math.max(0, Math.min(this.shown.length - 1, target)), false);
    } else if (event.key === "Enter" && this.current >= 0) {
      this.open(this.shown[this.current]);
    } else {
      return;
    }
    event.preventDefault();
  }

  _choose(at, opens) {
    if (!this.shown.length) return;
    this.current = at;
    if (opens) {
      this.open(this.shown[at]);
      return;
    }
    const top = at * ROW_PX;
    const room = this.element.clientHeight - 2 * ROW_PX - 8;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top > this.element.scrollTop + room) this.element.scrollTop = top - room;
    this._draw();
    const row = this.shown[at];
    announce(this.columns.map((column) => `${column.title}: ${textOf(column.cell(row))}`).join(", "));
  }

  /** On paper, the first rows of those that are shown, and how many there are. */
  print(on) {
    this.printing = on;
    this.rest?.remove();
    if (on) {
      const last = Math.min(this.shown.length, PRINTED_ROWS);
      this._fill(0, 0);
      this.body.replaceChildren(...Array.from({ length: last }, (_, at) => this._row(at)));
      if (last < this.shown.length) {
        this.rest = h("p", { class: "muted small" }, `${count(this.shown.length - last)} more rows are in the page itself.`);
        this.element.after(this.rest);
      }
    } else {
      this._redraw();
    }
  }
}

const collator = new Intl.Collator("en", { numeric: true });

function textOf(content) {
  return content instanceof Node ? content.textContent : String(content);
}
