// Elements: bars that are meters, the sentence on what was learned, messages. Text goes in as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
export const $ = id => document.getElementById(id);

/** Returns an element with properties and children. */
export function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter(child => child !== null));
  return made;
}

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

/** Shows an error: the sentence, then the technical line; without one, clears what an earlier error said. */
export function say(error) {
  const said = $("said");
  said.hidden = !error;
  said.replaceChildren();
  if (error) said.append(error.message, ...(error.technical ? [make("small", { textContent: error.technical })] : []));
}

export const percent = share => `${Math.round(100 * share)}\u00a0%`; // no line ends between a number and what belongs to it
export const number = value => (value <= -0.005 ? "−" : "") + Math.abs(value).toFixed(2);
export const count = (many, one, more = one + "s") => `${many.toLocaleString("en")} ${many === 1 ? one : more}`;
/** A spread that is small and not nothing is not shown as 0. */
export const within = (value, std) => number(value) + (std === undefined ? "" : `\u00a0±\u00a0${std > 0 && std < 0.005 ? std.toFixed(3) : std.toFixed(2)}`);
/** Numbers of a document as people read them: four significant digits. */
export const rounded = (_, value) => (typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value);

/** Returns one bar as a list item. Numbers lie between `low` and `high`; a value below 0 goes left of the zero line; `std` is drawn as a band. */
export function bar(name, value, { low = 0, high = 1, std, text = number(value), title = "" } = {}) {
  const place = at => 100 * (Math.min(high, Math.max(low, at)) - low) / (high - low || 1);
  const zero = place(0), end = place(value);
  const drawn = svg("svg", {
    class: "track", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "meter", "aria-label": name,
    "aria-valuemin": rounded("", low), "aria-valuemax": rounded("", high), "aria-valuenow": rounded("", value), "aria-valuetext": text,
  }, svg("rect", { class: value < 0 ? "less" : "fill", x: Math.min(zero, end), width: Math.abs(end - zero), y: 0, height: 10 }));
  if (low < 0) drawn.append(svg("rect", { class: "zero", x: zero - .25, width: .5, y: 0, height: 10 }));
  if (std) {
    const from = place(value - std), to = place(value + std);
    drawn.append(svg("path", { class: "band", d: `M${from} 5H${to}M${from} 2V8M${to} 2V8`, "vector-effect": "non-scaling-stroke" }));
  }
  return make("li", { className: "bar", title }, make("span", { textContent: name }), drawn, make("span", { textContent: text }));
}

/** Draws weights by name, with a scale that holds all of them and their spread. */
export function weights(into, values, spread = {}) {
  const edge = Object.entries(values).flatMap(([name, value]) => [value - (spread[name] || 0), value + (spread[name] || 0)]);
  const low = Math.min(0, ...edge), high = Math.max(values && low < 0 ? 0.1 : 1, ...edge);
  const sorted = Object.entries(values).sort((one, other) => other[1] - one[1]);
  into.replaceChildren(...sorted.map(([name, value]) => bar(name, value, { low, high, std: spread[name], text: within(value, spread[name]) })));
}

/** Draws shares that sum to 1. */
export function shares(into, values) {
  const sorted = Object.entries(values).sort((one, other) => other[1] - one[1]);
  into.replaceChildren(...sorted.map(([name, value]) => bar(name, value, { text: percent(value) })));
}

const CLEAR = 0.6; // below this a coin would say nearly as much

/** The chance that a Gaussian with this mean and spread is above 0 (Abramowitz and Stegun 26.2.17, error below 1e-7). */
export function chanceAbove(mean, std) {
  if (!(std > 0)) return mean > 0 ? 1 : mean < 0 ? 0 : 0.5;
  const z = Math.abs(mean / std), t = 1 / (1 + 0.2316419 * z);
  const tail = Math.exp(-z * z / 2) / Math.sqrt(2 * Math.PI)
    * t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return mean > 0 ? 1 - tail : tail;
}

/** What was learned, in one sentence: the head that stands out from the others most surely, and who answers next. */
export function sentence(seen, next) {
  const choices = seen.user.comparisons;
  const before = alike(seen) ? `Everybody is served alike: ${NO_TASTES}.` : "Nothing is known of you yet; each choice teaches a little.";
  const after = choices ? `After ${count(choices, "choice")}: ${liked(seen)}.` : before;
  if (!next) return after;
  const [member, share] = Object.entries(next).sort((one, other) => other[1] - one[1])[0] || [];
  return member === undefined ? after : `${after} Next answer: ${member}, ${percent(share)}.`;
}

const NO_TASTES = "this server learns no tastes";

/** Whether the serving family has one head alone, which is the same for everybody. */
const alike = seen => Object.keys(seen.families[seen.family].weights).length < 2;

function liked(seen) {
  if (alike(seen)) return NO_TASTES;
  const family = seen.families[seen.family], entries = Object.entries(family.weights);
  const sum = entries.reduce((total, [, weight]) => total + weight, 0);
  const apart = entries.map(([head, weight]) => {
    const margin = weight - (sum - weight) / (entries.length - 1);
    const std = (family.weights_std || {})[head];
    return { head, margin, sure: std === undefined ? null : chanceAbove(margin, std) };
  });
  apart.sort((one, other) => other.margin - one.margin);
  const { head, sure } = apart[0];
  if (sure === null) return `you lean to ${head} answers`;
  if (sure < CLEAR) return "what you like is not clear yet";
  // A chance is never said to be certain: the picture is a Gaussian, and rounding to 100 would promise more than it knows.
  return `you like ${head} answers, ${percent(Math.min(0.99, sure))} sure`;
}
