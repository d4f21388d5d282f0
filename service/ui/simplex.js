// The person among the members: a corner for each member, the person's chances as a point between them, and the way of that point so far.

import { count, make, percent, svg } from "./drawing.js";

const MOST = 8, FEWEST = 2; // corners that can still be told apart, and that make a picture
const WIDE = 430, HIGH = 250, REACH = 92; // of the picture, in its own units
const LONGEST = 12; // letters of a name that stand beside a corner
const ROWS = 8; // of the table

const named = name => (name.length > LONGEST ? name.slice(0, LONGEST - 1) + "…" : name);

function cornersOf(names) {
  if (names.length === 2) return names.map((_, at) => [WIDE / 2 + (at ? REACH : -REACH), HIGH / 2]);
  return names.map((_, at) => {
    const angle = 2 * Math.PI * at / names.length - Math.PI / 2;
    return [WIDE / 2 + REACH * Math.cos(angle), HIGH / 2 + REACH * Math.sin(angle)];
  });
}

/** Returns where chances lie: the mean of the corners, each weighed by its member's chance. */
function placeOf(chances, names, corners) {
  const sum = names.reduce((total, name) => total + (chances[name] || 0), 0) || 1;
  return [0, 1].map(axis => names.reduce((total, name, at) => total + (chances[name] || 0) / sum * corners[at][axis], 0));
}

const spot = ([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`;
const leader = chances => Object.entries(chances).reduce((best, one) => (one[1] > best[1] ? one : best));

function corner(name, [x, y], look, many) {
  const aside = x - WIDE / 2, anchor = many === 2 || Math.abs(aside) < 20 ? "middle" : aside < 0 ? "end" : "start";
  const label = svg("text", { x: x + (anchor === "middle" ? 0 : 10 * Math.sign(aside)), y: y + 4 + 16 * (anchor === "middle" ? Math.sign(y - HIGH / 2) || -1 : 0), "text-anchor": anchor });
  label.textContent = named(name);
  return [svg("circle", { class: `corner filled ${look}`, cx: x.toFixed(1), cy: y.toFixed(1), r: 4 }), label];
}

/** Returns the picture, or null for members that are too few or too many for one. `points` are [choices, {next}], the earliest first. */
export function simplex(points, look) {
  const last = points[points.length - 1][1].next, names = Object.keys(last).sort();
  if (names.length < FEWEST || names.length > MOST) return null;
  const corners = cornersOf(names), places = points.map(([, point]) => placeOf(point.next, names, corners));
  const middle = placeOf(Object.fromEntries(names.map(name => [name, 1])), names, corners);
  const title = svg("title", { id: "simplex-picture" }), said = svg("desc", { id: "simplex-said" });
  title.textContent = "You among the members";
  const high = names.length > 2 ? HIGH : 80; // two members are a line
  const [first] = leader(points[0][1].next), [now, chance] = leader(last);
  said.textContent = `A corner for each of ${names.join(", ")}. Your point was nearest to ${first} after ${count(points[0][0], "choice")} `
    + `and is nearest to ${now}, with ${percent(chance)}, after ${count(points[points.length - 1][0], "choice")}.`;
  const drawn = svg("svg", { class: "simplex", viewBox: `0 ${(HIGH - high) / 2} ${WIDE} ${high}`, role: "img", "aria-labelledby": "simplex-picture", "aria-describedby": "simplex-said" },
    title, said, svg("path", { class: "axis", d: `M${corners.map(spot).join("L")}Z` }),
    ...corners.map(place => svg("path", { class: "axis spoke", d: `M${spot(middle)}L${spot(place)}` })),
    ...names.flatMap((name, at) => corner(name, corners[at], look(name), names.length)),
    svg("path", { class: "way", d: `M${places.map(spot).join("L")}` }),
    ...places.slice(0, -1).map(([x, y]) => svg("circle", { class: "step", cx: x.toFixed(1), cy: y.toFixed(1), r: 2.5 })));
  const [x, y] = places[places.length - 1];
  drawn.append(svg("circle", { class: "here", cx: x.toFixed(1), cy: y.toFixed(1), r: 6 }));
  const folded = names.length > 3 ? " With more than three members, different chances can lie on one point; the table has them all." : "";
  return make("section", { id: "simplex" }, make("h4", { textContent: "You among the members" }), drawn,
    make("p", { className: "quiet", textContent: `The large dot is you now, the small ones are you after earlier choices: the nearer a corner, the likelier its member answers.${folded}` }));
}

/** Returns the members' chances after each choice, the latest first. */
export function chancesTable(points) {
  const names = Object.keys(points[points.length - 1][1].next).sort();
  if (!names.length) return null;
  const head = make("tr", {}, ...["Choices", ...names].map(text => make("th", { textContent: text, scope: "col" })));
  const rows = points.slice(-ROWS).reverse().map(([choices, { next }]) => make("tr", {},
    make("th", { textContent: choices, scope: "row" }), ...names.map(name => make("td", { textContent: percent(next[name] || 0) }))));
  const title = make("h4", { id: "chances-title", textContent: "The chances in numbers" });
  const held = make("div", { className: "scroll", tabIndex: 0 }, make("table", { id: "chances" }, make("thead", {}, head), make("tbody", {}, ...rows)));
  held.setAttribute("role", "group");
  held.setAttribute("aria-labelledby", "chances-title");
  return make("section", {}, title, held);
}
