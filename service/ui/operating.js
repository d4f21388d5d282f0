// Operate: members and what they are worth, coverage, the families' foresight, one decision, the bundle. Everything here only reads,
// except for the button that loads a bundle.

import { body, call, isAbort, read, segment } from "./calls.js";
import { $, bar, count, make, percent, rounded, say, shares, svg, within } from "./drawing.js";
import { countersOf, foresight, takeReading } from "./foresight.js";

const EVERY_MS = 10_000;

let look = null, asked = 0, measuring = false;

/** Lets go of everything that another key or person was shown; a part that the next one may not read stays empty. */
export function clearServer() {
  if (look) look.abort();
  look = null;
  asked += 1;
  $("server").hidden = $("decision").hidden = true;
  for (const part of ["bundle", "members", "members-note", "served", "coverage", "coverage-note", "law", "decision", "reloaded"]) $(part).replaceChildren();
}

/** Reads and draws the server; each part that fails leaves the others standing. */
export async function showServer() {
  if (look) look.abort();
  const mine = look = new AbortController(), options = { signal: mine.signal, admin: true };
  const [bundle, portfolio] = [read("bundle", options), read("portfolio", options)];
  const parts = [
    bundle.then(drawBundle),
    Promise.all([portfolio, bundle]).then(([members, { family }]) => drawMembers(members, family)),
    Promise.all([read("portfolio/coverage", options), portfolio]).then(([found, { certificate }]) => drawCoverage(found, Boolean(certificate))),
    measure(options),
  ];
  const failed = (await Promise.allSettled(parts)).filter(part => part.status === "rejected").map(part => part.reason);
  if (look !== mine) return;
  $("server").hidden = failed.length === parts.length;
  say(failed.find(reason => !isAbort(reason)) || null);
}

/** Reads and draws what the metrics count. */
async function measure(options) {
  const exposition = await call("metrics", options).then(body);
  drawAgreement(exposition);
  drawLatency(exposition);
}

/** Reads the metrics again while somebody looks; what fails is said by the picture, for nobody asked for it. */
async function keepMeasuring() {
  if (measuring || document.hidden || $("operate").hidden || $("server").hidden) return;
  measuring = true; // one at a time: where an answer takes longer than the pause, they would pile up
  try {
    await measure({ admin: true });
  } catch (error) { $("foresight-note").textContent = "The last reading failed, and the picture is of those before. " + error.message; }
  finally { measuring = false; }
}

function drawBundle(bundle) {
  $("bundle").textContent = `Bundle ${bundle.bundle} · basis ${bundle.basis} · family ${bundle.family} · ${bundle.provider}`;
}

function drawMembers(portfolio, family) {
  const heads = [...new Set(portfolio.members.flatMap(member => Object.keys(member.worth[family])))];
  const served = portfolio.members.map(member => member.share);
  const row = (kind, cells) => make("tr", {}, ...cells.map(text => make(kind, { textContent: text })));
  const rows = portfolio.members.map((member, at) => {
    const worth = heads.map(head => member.worth[family][head]);
    const drift = member.drift ? `${member.drift.standard_errors.toFixed(1)} s.e. (${member.drift.head})` : "too few answers";
    return row("td", [member.name, served.some(Boolean) ? percent(served[at]) : "–", ...worth.map(each => each ? within(each.mean, each.std) : "–"), drift]);
  });
  $("members-note").textContent = !rows.length ? "This server has no members that answer." : `Each member’s share of this month’s scored answers, its value under each head of ${family}, and by how much its latest answers differ from earlier ones.`;
  $("members").replaceChildren(...(rows.length ? [make("thead", {}, row("th", ["Member", "Share", ...heads, "Drift"])), make("tbody", {}, ...rows)] : []));
  for (const cell of $("members").querySelectorAll("th")) cell.scope = "col";
}

/** Returns what is proved of the users of late, in words. */
function proved(found, hasCertificate) {
  if (!hasCertificate) return "This family has no certificate, so nothing is proved of them. ";
  if (!found.certified) return "The certificate is about people who dislike none of the rewards; these users dislike some, so nothing is proved of them. ";
  const whom = found.certified === found.users ? "Each" : `${found.certified} of them dislike none of the rewards; each of these`;
  return `${whom} is certified to get at least the part of the best possible reward that the columns show. `;
}

function drawCoverage(found, hasCertificate) {
  const bins = found.histogram, most = Math.max(1, ...bins.map(bin => bin.users)), width = 360 / Math.max(1, bins.length);
  const label = bins.map(bin => `${count(bin.users, "user")} from ${rounded("", bin.lower)} to ${rounded("", bin.upper)}`).join("; ");
  const drawn = svg("svg", { class: "histogram", viewBox: "0 0 360 130", role: "img", "aria-label": "Users by certified ratio: " + label });
  bins.forEach((bin, at) => {
    const height = 90 * bin.users / most, x = at * width;
    drawn.append(svg("rect", { x: x + 2, y: 105 - height, width: width - 4, height: Math.max(1, height) }));
    const texts = [svg("text", { x: x + 2, y: 120 }), svg("text", { x: x + 2, y: 100 - height })];
    texts[0].textContent = `${rounded("", bin.lower)}`;
    texts[1].textContent = bin.users ? bin.users : "";
    drawn.append(...texts);
  });
  $("coverage").replaceChildren(...(bins.length ? [drawn] : []));
  shares($("served"), found.users ? Object.fromEntries(found.members.map(member => [member.member, member.share])) : {});
  $("coverage-note").textContent = !found.users ? "The process that answered has seen no user of late."
    : `${count(found.users, "user")} of late, as the process that answered saw them; the bars show which part of them each member suits best. ` + proved(found, hasCertificate)
      + (found.mean_gap === null ? "" : `On average ${percent(found.mean_gap)} is left to gain at most. `)
      + (found.drop ? `Of all members, they would miss ${found.drop} least.` : "");
}

/** Draws how often each family foresaw a choice before it was learned, from the exposition of the metrics. */
function drawAgreement(exposition) {
  const counters = countersOf(exposition), families = Object.entries(counters).filter(([, [, all]]) => all > 0);
  $("agreement").replaceChildren(...families.map(([family, [yes, all]]) => bar(family, yes / all, { text: `${percent(yes / all)} of ${all}` })));
  $("agreement-note").textContent = families.length ? "Choices that a family foresaw before it learned them, since the server started; half is chance."
    : "No choice was learned since the server started.";
  $("foresight").replaceChildren(foresight(takeReading(exposition)));
  $("foresight-note").textContent = "";
}

/** Draws the mean time of each stage, from the sums and counts of the metrics. */
function drawLatency(exposition) {
  const stages = {};
  for (const [, part, stage, value] of exposition.matchAll(/^attune_stage_duration_seconds_(sum|count)\{stage="(\w+)"\} (\S+)$/gm)) {
    stages[stage] = { ...stages[stage], [part]: Number(value) };
  }
  const means = Object.entries(stages).filter(([, one]) => one.count > 0).map(([stage, one]) => [stage, 1000 * one.sum / one.count, one.count]);
  const most = Math.max(...means.map(([, mean]) => mean), 0);
  means.sort((one, other) => other[1] - one[1]);
  $("latency").replaceChildren(...means.map(([stage, mean, times]) => bar(stage, mean, {
    high: most, text: mean < 10 ? `${mean.toFixed(1)} ms` : mean < 1000 ? `${Math.round(mean)} ms` : `${(mean / 1000).toFixed(1)} s`, title: count(times, "time"),
  })));
  $("latency-note").textContent = means.length ? "Mean of each stage of a request since the server started; a member’s is what its answer took."
    : "No request was measured since the server started.";
}

async function inspect(event) {
  event.preventDefault();
  const mine = ++asked; // of two that were asked for, the later one is shown, whichever comes first
  try {
    const found = await read("decisions/" + segment($("decision-id").value.trim()), { admin: true });
    if (mine !== asked) return;
    say(null);
    shares($("law"), found.routing.propensities);
    $("decision").textContent = JSON.stringify(found, rounded, 2);
    $("decision").hidden = false;
  } catch (error) {
    if (mine !== asked) return;
    $("law").replaceChildren();
    $("decision").hidden = true;
    say(error);
  }
}

async function reload() {
  if (!confirm("Load the newest bundle and serve it from now on?")) return;
  $("reload").disabled = true;
  $("reloaded").textContent = "Loading …";
  try {
    const done = await read("admin/reload", { body: {}, admin: true });
    $("reloaded").textContent = done.bundle === done.before ? `${done.bundle} serves as before.`
      : `${done.bundle} serves in place of ${done.before}; what was learned of users is ${done.users_kept ? "kept" : "under another basis"}.`;
    await showServer();
  } catch (error) {
    $("reloaded").textContent = "";
    say(error);
  } finally { $("reload").disabled = false; }
}

$("inspect").addEventListener("submit", inspect);
$("reload").addEventListener("click", reload);
$("refresh").addEventListener("click", showServer);
setInterval(keepMeasuring, EVERY_MS);
