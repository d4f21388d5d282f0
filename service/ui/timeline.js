// How weights and chances have moved, choice by choice, as this tab saw them: kept in the tab's memory and drawn as lines.

import { make, percent, svg, within } from "./drawing.js";

const seenBy = new Map(); // person -> choices -> what was known then
const MOST = 200, WIDE = 320, HIGH = 120;
const COLOURS = 6; // classes line-0 to line-5 of the style sheet

/** Remembers what is known of a person after so many choices; a choice that was undone takes what came after it along. */
export function remember(person, seen, next) {
  const points = seenBy.get(person) || new Map(), family = seen.families[seen.family];
  for (const choices of [...points.keys()]) if (choices > seen.user.comparisons || points.size > MOST) points.delete(choices);
  points.set(seen.user.comparisons, { weights: family.weights, spread: family.weights_std || {}, next: next || {} });
  seenBy.set(person, points);
}

/** Returns two pictures, weights and chances over the person's choices; null while fewer than two moments are known. */
export function overTime(person) {
  const points = [...(seenBy.get(person) || new Map())].sort(([one], [other]) => one - other);
  if (points.length < 2) return null;
  return make("div", { className: "columns" },
    picture("What you want, over your choices", points, point => point.weights, (point, name) => within(point.weights[name], point.spread[name])),
    picture("Who answers next, over your choices", points, point => point.next, (point, name) => percent(point.next[name])));
}

function picture(title, points, values, told) {
  const last = points[points.length - 1][1], names = Object.entries(values(last)).sort((one, other) => other[1] - one[1]).slice(0, COLOURS).map(([name]) => name);
  const all = points.flatMap(([, point]) => names.map(name => values(point)[name] || 0)), low = Math.min(0, ...all), high = Math.max(...all, low + 0.1);
  const first = points[0][0], span = points[points.length - 1][0] - first;
  const x = choices => 4 + (WIDE - 8) * (choices - first) / span, y = value => HIGH - 6 - (HIGH - 12) * (value - low) / (high - low);
  const label = `${title}: ` + names.map(name => `${name} from ${told(points[0][1], name)} to ${told(last, name)}`).join("; ");
  const drawn = svg("svg", { class: "timeline", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label },
    svg("path", { class: "axis", d: `M4 ${y(0)}H${WIDE - 4}` }));
  names.forEach((name, at) => drawn.append(svg("path", {
    class: `line line-${at}`, d: points.map(([choices, point], step) => `${step ? "L" : "M"}${x(choices).toFixed(1)} ${y(values(point)[name] || 0).toFixed(1)}`).join(""),
  })));
  const legend = make("ul", { className: "legend" }, ...names.map((name, at) => make("li", {}, svg("svg", { class: "key", viewBox: "0 0 20 4", "aria-hidden": "true" },
    svg("path", { class: `line line-${at}`, d: "M0 2H20" })), ` ${name} ${told(last, name)}`)));
  return make("section", {}, make("h4", { textContent: title }), drawn, legend);
}
