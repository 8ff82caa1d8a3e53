// How the timeline looks: colours, patterns and shapes, in light and dark and on paper.

const BATCH_FILLS = ["#0072b2", "#009e73", "#cc79a7", "#56b4e9"];
const KIND_FILLS = {
  start: ["#9aa4ae", "dots"],
  import: ["#9aa4ae", "cross"],
  load: ["#e69f00", "slant"],
  move: ["#d55e00", "level"],
  away: ["#9aa4ae", "sparse"],
  lease: ["#f0e442", "upright"],
  read: ["#56b4e9", "upright"],
  write: ["#009e73", "level"],
  publish: ["#cc79a7", "level"],
  stop: ["#9aa4ae", "upright"],
};

/** Colours of the page as it is now. */
function pageColours(onPaper) {
  const dark = !onPaper && document.documentElement.dataset.theme === "dark";
  return dark
    ? { dark, back: "#12161b", band: "#1a2027", line: "#2c353e", text: "#e8edf2", muted: "#a5b1bd", edge: "#0b0e12", mark: "#ff9a6b", idle: "#66727e", chosen: "#ffb454" }
    : { dark, back: "#ffffff", band: "#f5f7f9", line: "#dfe4e9", text: "#1b2129", muted: "#55606c", edge: "#ffffff", mark: "#b34700", idle: "#98a3ae", chosen: "#b34700" };
}

class Paint {
  constructor(context, colours) {
    this.context = context;
    this.colours = colours;
    this.patterns = new Map();
  }

  fill(kind, model) {
    if (kind === "batch") return BATCH_FILLS[model % BATCH_FILLS.length];
    const [colour, pattern] = KIND_FILLS[kind];
    if (!this.patterns.has(kind)) this.patterns.set(kind, this._pattern(colour, pattern));
    return this.patterns.get(kind);
  }

  /** What a stretch too narrow for a pattern is filled with. */
  plainFill(kind, model) {
    return kind === "batch" ? BATCH_FILLS[model % BATCH_FILLS.length] : KIND_FILLS[kind][0];
  }

  _pattern(colour, name) {
    const size = 8;
    const tile = document.createElement("canvas");
    tile.width = tile.height = size;
    const pen = tile.getContext("2d");
    const light = name === "sparse";
    pen.fillStyle = colour;
    pen.globalAlpha = light ? 0.25 : 1;
    pen.fillRect(0, 0, size, size);
    pen.globalAlpha = light ? 0.9 : 0.42;
    pen.strokeStyle = pen.fillStyle = light ? colour : "#12161b";
    pen.lineWidth = 1.6;
    const lines = {
      slant: [[-2, 6, 6, -2], [2, 10, 10, 2]],
      sparse: [[-2, 6, 6, -2], [2, 10, 10, 2]],
      cross: [[0, 8, 8, 0], [0, 0, 8, 8]],
      upright: [[4, 0, 4, 8]],
      level: [[0, 4, 8, 4]],
      dots: [],
    }[name];
    for (const [x, y, x2, y2] of lines) {
      pen.beginPath();
      pen.moveTo(x, y);
      pen.lineTo(x2, y2);
      pen.stroke();
    }
    if (name === "dots") {
      pen.beginPath();
      pen.arc(2, 2, 1.2, 0, 7);
      pen.arc(6, 6, 1.2, 0, 7);
      pen.fill();
    }
    return this.context.createPattern(tile, "repeat");
  }

  /** A shape for what happens at one moment. */
  mark(kind, x, y) {
    const pen = this.context;
    pen.save();
    pen.translate(Math.round(x), y);
    pen.lineWidth = 2;
    pen.strokeStyle = this.colours.back;
    pen.fillStyle = kind === "evicted" || kind === "note" ? this.colours.text : this.colours.mark;
    pen.beginPath();
    if (kind === "evicted") pen.moveTo(-5, -4), pen.lineTo(5, -4), pen.lineTo(0, 4), pen.closePath();
    else if (kind === "out_of_memory") pen.moveTo(0, -6), pen.lineTo(6, 0), pen.lineTo(0, 6), pen.lineTo(-6, 0), pen.closePath();
    else if (kind === "device_refused") pen.rect(-4, -4, 8, 8);
    else if (kind === "note") pen.arc(0, 0, 4, 0, 7);
    else {
      pen.moveTo(-5, -5), pen.lineTo(5, 5), pen.moveTo(5, -5), pen.lineTo(-5, 5);
      pen.lineWidth = 5;
      pen.stroke();
      pen.strokeStyle = this.colours.mark;
      pen.lineWidth = 2.5;
      pen.stroke();
      pen.restore();
      return;
    }
    pen.stroke();
    pen.fill();
    pen.restore();
  }
}

/** Steps of a time axis that people count in, so that labels stay some 90 pixels apart. */
function axisStep(seconds, pixels) {
  const wanted = (seconds * 100) / Math.max(pixels, 1);
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];
  if (wanted <= 1) {
    const base = 10 ** Math.floor(Math.log10(wanted));
    return [1, 2, 5, 10].map((n) => n * base).find((step) => step >= wanted * 0.999);
  }
  return steps.find((step) => step >= wanted) || Math.ceil(wanted / 604800) * 604800;
}

/** A time since the start, written as finely as the axis counts. */
function axisLabel(seconds, step) {
  if (step < 1) {
    const digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
    return seconds < 100 ? `${seconds.toFixed(digits)} s` : `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(digits).padStart(3 + digits, "0")}`;
  }
  const whole = Math.round(seconds);
  if (whole < 120) return `${whole} s`;
  const two = (n) => String(n).padStart(2, "0");
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}
