// How often each family foresaw a choice, over time: a server keeps counters and no history, so this page keeps its readings of
// them, in memory alone and apart for each start of the server, and draws the share of the choices learned since the first reading.

import { count, make, percent } from "./drawing.js";
import { picture } from "./timeline.js";

const MOST = 240;
const TITLE = "The same, over the time that this page is open";
const processes = new Map(); // when a process began -> { first, before, points }

/** Returns family -> [foreseen, all] of the choices that were learned, from the exposition of the metrics. */
export function countersOf(exposition) {
  const counters = {};
  for (const [, labels, value] of exposition.matchAll(/^attune_prequential_comparisons_total\{(.*)\} (\S+)$/gm)) {
    const { family, agreed } = Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, name, value]) => [name, value]));
    const [yes, all] = counters[family] || [0, 0];
    counters[family] = [yes + (agreed === "yes" ? Number(value) : 0), all + Number(value)];
  }
  return counters;
}

/** Takes one reading in, and returns all that was read of the process that answered; seconds are those of this page. */
export function takeReading(exposition, seconds = performance.now() / 1000) {
  const began = (exposition.match(/^process_start_time_seconds (\S+)$/m) || ["", ""])[1], counters = countersOf(exposition);
  const seen = processes.get(began) || { first: [seconds, counters], before: seconds, points: [] };
  processes.set(began, seen);
  const last = seen.points.length ? seen.points[seen.points.length - 1][1] : {}, since = {};
  for (const [family, [yes, all]] of Object.entries(counters)) {
    const [yesThen, allThen] = seen.first[1][family] || [0, 0];
    if (all > allThen) since[family] = { share: (yes - yesThen) / (all - allThen), choices: all - allThen };
  }
  if (Object.entries(since).some(([family, { choices }]) => choices !== last[family]?.choices)) {
    // The first choices came at some time after the reading before: a line needs both ends.
    if (!seen.points.length) seen.points.push([seen.before, since]);
    seen.points.push([seconds, since]);
    // Every other point goes when there are many: the whole time stays in the picture.
    if (seen.points.length > MOST) seen.points = seen.points.filter((_, at, all) => at % 2 === 0 || at === all.length - 1);
  }
  seen.before = seconds;
  return seen;
}

const lasting = seconds => (seconds < 90 ? count(Math.round(seconds), "second") : count(Math.round(seconds / 60), "minute"));

/** Returns the picture of what was read of a process, with what it says. */
export function foresight({ first, before, points }) {
  const since = `since this page first read the server, ${lasting(before - first[0])} ago`;
  if (!points.length) {
    const note = `Nothing yet: no choice was learned ${since}. It is read every ten seconds while this view is shown.`;
    return make("section", {}, make("h4", { textContent: TITLE }), make("p", { className: "quiet", textContent: note }));
  }
  // Nothing was learned after the last point: the shares hold until now.
  const drawn = [...points, [before, points[points.length - 1][1]]];
  const names = [...new Set(drawn.flatMap(([, point]) => Object.keys(point)))].sort();
  const told = (point, family) => (point[family] ? `${percent(point[family].share)} of ${point[family].choices}` : "nothing");
  const sharesOf = point => Object.fromEntries(Object.entries(point).map(([family, { share }]) => [family, share]));
  const note = `The share that each family foresaw of all choices that were learned ${since}. Left is ${lasting(before - drawn[0][0])} ago, `
    + "right is now; the top is 100 %, and the thin line is half, which is chance. A reload of the page starts over.";
  return picture(TITLE, drawn, sharesOf, told, family => `line-${names.indexOf(family) % 8}`, { low: 0, high: 1, mark: 0.5, gaps: true, note });
}
