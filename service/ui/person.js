// You: what is known of the person, what its words mean, who answers next, the history with undo, export, and being forgotten.

import { body, call, isAbort, read, segment } from "./calls.js";
import { $, count, make, percent, say, sentence, shares, weights } from "./drawing.js";
import { newPerson, person } from "./state.js";
import { letGo, overTime, remember } from "./timeline.js";

const SHOWN = 50; // choices of the history that are listed, the latest first
let look = null, asked = ""; // the question of the latest look
let drawn = null; // whose picture is on the screen
let cards = null; // of the bundle: asked once, when a person is first shown

/** Reads and draws the person; a later call stops an earlier one. */
export async function showPerson(prompt) {
  if (look) look.abort();
  const mine = look = new AbortController(), who = person(), signal = mine.signal;
  asked = prompt;
  $("forgotten").textContent = "";
  if (drawn !== who) { // nothing of somebody else stays, and nothing half-drawn moves about
    drawn = null;
    $("you-known").hidden = true;
    $("you-learned").textContent = "Reading what is known …";
  }
  try {
    const path = "users/" + segment(who);
    const [seen, log, told] = await Promise.all([read(path, { signal }), history(path, signal), cards || read("bundle", { signal }).then(bundle => bundle.cards)]);
    const next = seen.portfolio ? (await read("route", { body: { user: who, prompt, record: false }, signal })).routing.propensities : null;
    if (look !== mine) return;
    cards = told;
    say(null);
    remember(who, seen, next);
    $("you-learned").textContent = sentence(seen, next);
    $("over-time").replaceChildren(...overTime(who));
    draw(seen, next, prompt);
    list(log, seen.family);
    meanings(cards[seen.family] || {}, Object.keys(seen.families[seen.family].weights));
    drawn = who;
    $("you-known").hidden = false;
  } catch (error) {
    if (isAbort(error) || look !== mine) return;
    if (drawn !== who) $("you-learned").textContent = "";
    say(error);
  }
}

function draw(seen, next, prompt) {
  const serving = seen.families[seen.family];
  weights($("weights"), serving.weights, serving.weights_std);
  $("weights-note").textContent = serving.weights_std
    ? "How much you want of each, learned from your choices. The line on a bar is ± one standard deviation: the shorter, the surer."
    : "How much you want of each, learned from your choices.";
  $("next-note").replaceChildren(...(next ? ["The chance of each member, for “", make("bdi", { textContent: prompt }), "”."] : ["This server has no members that answer."]));
  shares($("next"), next || {});
  $("families").replaceChildren(...Object.entries(seen.families).map(([family, state]) => {
    const drawn = make("ul", { className: "bars" });
    weights(drawn, state.weights, state.weights_std);
    return make("section", {}, make("h3", { textContent: family + (family === seen.family ? " (serves)" : "") }), drawn);
  }));
}

/** Draws what heads reward most and least, for those that have examples. */
function meanings(examples, heads) {
  const told = heads.filter(head => examples[head]);
  $("meanings").hidden = !told.length;
  $("cards").replaceChildren(...told.map(head => make("div", {},
    make("dt", { textContent: head }),
    ...[["Most", examples[head].highest], ["Least", examples[head].lowest]].filter(([, answers]) => answers && answers.length)
      .map(([end, [answer]]) => make("dd", {}, make("span", { className: "quiet", textContent: `${end}: ` }), "“", make("bdi", { textContent: answer.response }), "”")),
  )));
}

/** Returns the comparisons that stand, the latest first. */
async function history(path, signal) {
  const lines = (await body(await call(path + "/export", { signal }))).split("\n").filter(Boolean).map(line => JSON.parse(line));
  const gone = new Set(lines.filter(line => line.type === "taken-back").map(line => line.event_id));
  return lines.filter(line => line.type === "comparison" && !gone.has(line.event_id)).reverse();
}

function list(log, family) {
  const shown = log.slice(0, SHOWN);
  $("history").start = log.length;
  $("history").replaceChildren(...shown.map((entry, at) => {
    const outcome = said(entry);
    const undo = make("button", { type: "button", textContent: "Undo", onclick: () => takeBack(entry.event_id, at, log.length - at, undo) });
    undo.setAttribute("aria-label", `Undo: ${outcome}, ${entry.prompt || "without its text"}`);
    return make("li", {}, make("div", {}, make("span", {},
      make("p", { dir: "auto", textContent: entry.prompt || "(the text was not kept)" }),
      make("p", { className: "quiet", textContent: `${outcome}${foreseen(entry, family)}` })), undo));
  }));
  $("history-note").textContent = !log.length ? "None yet. Each choice will be listed here, and can be undone."
    : log.length > SHOWN ? `The latest ${SHOWN} of ${count(log.length, "choice")}; the export has all.` : "";
}

/** Returns what a choice, a rating or a ranking said. */
function said(entry) {
  const [better, other] = entry.members || [];
  if (entry.kind === "rating") return `${better || "an answer"} rated ${percent(entry.rating)}`;
  if (entry.kind === "ranking") return "ranked: " + (entry.members || []).map(name => name || "a text").join(", ");
  if (entry.tie) return "could not tell";
  return better && other ? `${better} over ${other}` : "one text over another";
}

function foreseen(entry, family) {
  const chance = entry.predicted && entry.predicted[family];
  return entry.tie || !Number.isFinite(chance) ? "" : ` · was given a chance of ${percent(chance)} beforehand`;
}

async function takeBack(event, at, number, button) {
  button.disabled = true;
  const who = person();
  try {
    await read(`users/${segment(who)}/comparisons/${segment(event)}`, { method: "DELETE" });
    letGo(who, number); // what was known since then rested on this choice
    if (person() !== who) return;
    await showPerson(asked);
    const left = $("history").querySelectorAll("button"); // whoever undoes one stays where it was
    (left[at] || left[at - 1] || $("export")).focus();
  } catch (error) {
    button.disabled = false;
    say(error);
  }
}

/** Saves the export as a file; fetched here because a link could not carry the API key. */
async function save() {
  const who = person();
  try {
    const text = await body(await call(`users/${segment(who)}/export`));
    const address = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
    make("a", { href: address, download: `attune-${who.replace(/[^\w.-]/g, "_")}.jsonl` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
    say(null);
  } catch (error) { say(error); }
}

async function forget() {
  if (!confirm("Delete everything that this server keeps of you? It cannot be brought back.")) return;
  const who = person();
  $("forget").disabled = true;
  try {
    const { deleted, deleted_before } = await read("users/" + segment(who), { method: "DELETE" });
    letGo(who);
    if (person() !== who) return; // somebody else is asking by now, and stays
    newPerson();
    say(null);
    const gone = deleted_before && !deleted.keys ? "Everything had been deleted before"
      : `Deleted: ${count(deleted.comparisons, "choice")} and ${count(deleted.decisions, "decision")}`;
    $("forgotten").textContent = `${gone}. You are a new person now.`;
  } catch (error) { say(error); } finally { $("forget").disabled = false; }
}

$("export").addEventListener("click", save);
$("forget").addEventListener("click", forget);
