// Elements and words. Whatever comes from a run is put into the page as text, never as markup.

/** Make an element: h("a", {class: "x", href: "#y", onclick: f}, "text", element, ...). */
function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const NONE = "–";
const NARROW = "\u202f"; // between digits and before units

/** Digits in groups of three: 20 000. */
function count(number) {
  if (number === null || number === undefined || Number.isNaN(number)) return NONE;
  const digits = String(Math.round(number));
  return digits.length < 5 ? digits : digits.replace(/\B(?=(\d{3})+$)/g, NARROW);
}

/** Three significant digits. */
function figure(number) {
  if (number === null || number === undefined || Number.isNaN(number)) return NONE;
  const size = Math.abs(number);
  if (size >= 100) return count(number);
  if (size >= 10) return number.toFixed(1);
  if (size >= 1) return number.toFixed(2);
  return size ? String(Number(number.toPrecision(2))) : "0";
}

/** Seconds as people read them: 320 ms, 4.2 s, 3 min 05 s, 2 h 14 min. */
function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return NONE;
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  if (size < 0.001) return `${figure(seconds * 1e6)} µs`;
  if (size < 0.9995) return `${figure(seconds * 1e3)} ms`;
  if (size < 89.95) return `${size < 9.995 ? seconds.toFixed(2) : seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 5400) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  const minutes = Math.round(seconds / 60);
  return `${count(Math.floor(minutes / 60))} h ${two(minutes % 60)} min`;
}

/** A share as a percentage. */
function percent(share) {
  if (share === null || share === undefined || !Number.isFinite(share)) return NONE;
  const value = share * 100;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  return `${value < 10 ? Number(value.toFixed(1)) : Math.round(value)} %`;
}

/** MiB as people read them. */
function mebibytes(size) {
  if (size === null || size === undefined || size < 0) return NONE;
  return size < 1024 ? `${figure(size)} MiB` : `${figure(size / 1024)} GiB`;
}

/** A number of things, with its noun. */
function counted(number, noun, nouns = `${noun}s`) {
  return `${count(number)} ${number === 1 ? noun : nouns}`;
}

/** A point in time, in the reader's own time zone. */
function moment(epochSeconds) {
  if (!epochSeconds) return NONE;
  return new Date(epochSeconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** A list of names and values; what is null is left out. */
function facts(pairs, kind = "facts") {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: kind }, shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** Say something to those who hear the page. */
function announce(text) {
  const region = document.getElementById("said");
  if (region) region.textContent = text;
}

/** An element's place within its track, which no style attribute may say under the page's policy. */
function placed(element, leftShare, widthShare) {
  element.style.left = `${(leftShare * 100).toFixed(3)}%`;
  element.style.width = `${(Math.max(widthShare, 0) * 100).toFixed(3)}%`;
  return element;
}
