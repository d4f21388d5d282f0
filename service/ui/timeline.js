// How weights and chances have moved, choice by choice, as this tab saw them: kept with the tab and drawn as lines, as a place, and as numbers.

import { count, make, percent, svg, within } from "./drawing.js";
import { chancesTable, simplex } from "./simplex.js";
import { recall, store } from "./state.js";

const MOST = 100, WIDE = 320, HIGH = 120;
const LOOKS = 8; // classes line-0 to line-7 of the style sheet
const name = person => "attune-seen-" + person;

const short = values => Object.fromEntries(Object.entries(values || {}).map(([key, value]) => [key, Number(value.toFixed(4))]));

/** Returns [choices, what was known then] of a person, the earliest first. */
function pointsOf(person) {
  try { return JSON.parse(recall(name(person)) || "[]"); } catch { return []; }
}

/** Remembers what is known of a person after so many choices; a choice that was undone takes what came after it along. */
export function remember(person, seen, next) {
  const family = seen.families[seen.family], choices = seen.user.comparisons;
  const kept = pointsOf(person).filter(([at, point]) => at < choices && point.basis === seen.basis);
  kept.push([choices, { basis: seen.basis, weights: short(family.weights), spread: short(family.weights_std), next: short(next) }]);
  store(name(person), JSON.stringify(kept.slice(-MOST)));
}

/** Lets go of what came with the choice of this number and after it, or of all. */
export function letGo(person, number = 0) {
  const kept = pointsOf(person).filter(([at]) => at < number);
  store(name(person), kept.length ? JSON.stringify(kept) : null);
}

/** Returns the pictures and their table: weights and chances over the person's choices, and the person among the members. */
export function overTime(person) {
  const points = pointsOf(person);
  if (!points.length) return [];
  const [, last] = points[points.length - 1], look = looks(Object.keys(last.weights), Object.keys(last.next));
  const lines = points.length < 2 ? [] : [
    picture("What you want, over your choices", points, point => point.weights, (point, name) => within(point.weights[name], point.spread[name]), look, { spread: point => point.spread }),
    ...(Object.keys(last.next).length ? [picture("Who answers next, over your choices", points, point => point.next, (point, name) => percent(point.next[name] || 0), look)] : []),
  ];
  return [...lines, simplex(points, look), chancesTable(points)].filter(Boolean);
}

/** Returns what gives a name its colour and dashes: the same in every picture, whoever leads. */
function looks(heads, members) {
  const all = [...new Set([...members, ...heads])].sort(), apart = [heads, members].map(names => [...names].sort());
  return name => {
    const list = all.length <= LOOKS ? all : apart[1].includes(name) ? apart[1] : apart[0];
    return `line-${list.indexOf(name) % LOOKS}`;
  };
}

/**
 * Returns one picture of lines; where `spread` tells how sure each value is, the leader has a band of one standard deviation about it.
 * The scale holds all values unless `low` and `high` are given; a thin line is at `mark`; with `gaps` a line is drawn only where it has a value.
 */
export function picture(title, points, values, told, look, { spread = () => ({}), low, high, mark = 0, gaps = false, note } = {}) {
  const last = points[points.length - 1][1], names = Object.entries(values(last)).sort((one, other) => other[1] - one[1]).slice(0, LOOKS).map(([name]) => name);
  const [leader] = names, value = (point, name) => values(point)[name] || 0, band = point => spread(point)[leader] || 0;
  const all = points.flatMap(([, point]) => [...names.map(name => value(point, name)), value(point, leader) - band(point), value(point, leader) + band(point)]);
  low = low ?? Math.min(0, ...all);
  high = high ?? Math.max(...all, low + 0.1);
  const first = points[0][0], latest = points[points.length - 1][0];
  const x = choices => 4 + (WIDE - 8) * (choices - first) / (latest - first || 1), y = value => HIGH - 6 - (HIGH - 12) * (value - low) / (high - low);
  const spot = (choices, value) => `${x(choices).toFixed(1)} ${y(value).toFixed(1)}`;
  const label = `${title}: ` + names.map(name => `${name} from ${told(points[0][1], name)} to ${told(last, name)}`).join("; ");
  const drawn = svg("svg", { class: "timeline", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label });
  const banded = points.some(([, point]) => band(point) > 0);
  if (banded) {
    const above = points.map(([choices, point]) => spot(choices, value(point, leader) + band(point)));
    const below = points.map(([choices, point]) => spot(choices, value(point, leader) - band(point))).reverse();
    drawn.append(svg("path", { class: `shade filled ${look(leader)}`, d: `M${[...above, ...below].join("L")}Z` }));
  }
  drawn.append(svg("path", { class: "axis", d: `M4 ${y(mark)}H${WIDE - 4}` }));
  // Dashes lie above whole lines, so that two that run together are seen to be two.
  for (const name of [...names].sort((one, other) => look(one).localeCompare(look(other)))) {
    const spots = points.filter(([, point]) => !gaps || name in values(point)).map(([choices, point]) => spot(choices, value(point, name)));
    drawn.append(svg("path", { class: `line ${look(name)}`, d: `M${spots.join("L")}` }));
  }
  const legend = make("ul", { className: "legend" }, ...names.map(name => make("li", {}, svg("svg", { class: "key", viewBox: "0 0 20 4", "aria-hidden": "true" },
    svg("path", { class: `line ${look(name)}`, d: "M0 2H20" })), ` ${name} ${told(last, name)}`)));
  note = note ?? `From ${count(first, "choice")} to ${latest}, left to right; the thin line is 0.` + (banded ? ` The shaded band is ± one standard deviation of ${leader}.` : "");
  return make("section", {}, make("h4", { textContent: title }), drawn, legend, make("p", { className: "quiet", textContent: note }));
}
