// Try: a question, two answers side by side as they are written, a blind choice, what it taught, why, undo.
// A round is one question. It owns its AbortController, its person and its event id; whoever comes back from an `await` first asks
// whether its round is still the newest, so that two rounds never write into the same cards.

import { SENTENCES, call, events, isAbort, read, segment, tell } from "./calls.js";
import { $, bar, make, number, say, sentence, within } from "./drawing.js";
import { remember } from "./timeline.js";
import { newId, person } from "./state.js";

const CHIPS = [...$("example-list").querySelectorAll("button")];
const EXAMPLES = [...CHIPS.map(chip => chip.textContent), "Can you give me a recipe for tomato soup?", "Hi, how are you?"];
const WHYS = [$("first-why"), $("second-why")];
const CARDS = [$("first"), $("second")], PICKS = [$("choose-first"), $("choose-second")];
const PLACES = ["First answer", "Second answer"];
const DEMO = "The demo's small models know about a hundred everyday topics: cooking, travel, how things work, advice and small talk.";
const TITLE = $("try-title").textContent, NOTE = $("try-note").textContent;
const HEARD = 600; // characters of an answer that are read out; the whole is in the card

let round = null, rounds = 0, looks = 0, tasks = 0;

const textOf = place => CARDS[place].querySelector(".text");
const current = asked => round === asked;

/** Returns the question that "who answers next" is about, in every view: what stands in the box, or the first example. */
export const question = () => $("prompt").value.trim() || EXAMPLES[0];

/** Draws the sentence on what was learned; of two that run at once, the later one wins. */
export async function learned() {
  const look = ++looks, who = person(), prompt = question();
  try {
    const seen = await read("users/" + segment(who));
    let next = null;
    if (seen.portfolio) next = (await read("route", { body: { user: who, prompt, record: false } })).routing.propensities;
    if (look !== looks) return;
    offerPairs(Object.keys(next || {}).length);
    $("learned").textContent = sentence(seen, next);
    remember(who, seen, next);
    // A certificate is of the members that came with the bundle: nothing is said of others that a roster put in their place.
    $("examples-note").textContent = seen.bundle.startsWith("demo-") && seen.portfolio && seen.portfolio.certificate ? DEMO : "";
  } catch (error) {
    if (look !== looks) return;
    $("learned").textContent = "";
    say(error);
    throw error;
  }
}

/** Offers two answers where two members can write them, and says why not where there are fewer. */
function offerPairs(members) {
  $("ask").hidden = $("examples").hidden = members < 2;
  $("try-title").textContent = members < 2 ? "There is nothing to choose between" : TITLE;
  $("try-note").textContent = members > 1 ? NOTE : members ? "This server has one model that answers, and a choice needs two." : SENTENCES["no-members"];
}

/** Puts everything back to the state before a question, and stops what runs. */
export function reset() {
  if (round) round.abort.abort();
  round = null;
  rounds += 1;
  $("pair").hidden = true;
  $("send").disabled = false;
  $("announced").textContent = "";
  open(false);
}

function open(chosen) {
  for (const button of [...PICKS, $("choose-tie")]) button.disabled = !chosen;
}

/** Returns the sentence that a screen reader is told when both answers are there. */
function announcement() {
  const texts = PLACES.map((place, at) => `${place}: ${textOf(at).textContent.slice(0, HEARD)}`);
  return `Both answers are there. ${texts.join(" ")} Choose with 1, 2, or 0 if you cannot tell.`;
}

async function ask(prompt) {
  reset();
  // Which side is first is a coin's: members' names, their order, and whoever is likelier stay unknown until the choice.
  const asked = round = {
    number: rounds, person: person(), prompt, abort: new AbortController(), swapped: Math.random() < 0.5, event: newId(), made: null, busy: false,
  };
  say(null);
  $("send").disabled = true;
  $("after").hidden = true;
  $("why").hidden = true;
  $("choices").hidden = false;
  $("pair").hidden = false;
  $("pair-title").textContent = "Two answers are being written …";
  CARDS.forEach((card, place) => {
    card.classList.remove("won");
    card.setAttribute("aria-busy", "true");
    card.querySelector("h4").textContent = PLACES[place];
    textOf(place).textContent = "";
  });
  if ([$("prompt"), $("send"), document.body, ...CHIPS].includes(document.activeElement)) $("pair").focus({ preventScroll: true });
  try {
    const body = { user: asked.person, prompt, candidates: 2, stream: true };
    const answer = await call("generate", { body, signal: asked.abort.signal });
    for await (const [name, data] of events(answer)) {
      if (!current(asked)) return;
      if (name === "token") textOf(placeOf(asked, data.index)).textContent += data.text;
      if (name === "done") asked.made = data;
    }
    if (!current(asked)) return;
    // A member that fails at the start may be replaced by another one; the last event is what was kept.
    asked.made.candidates.forEach(candidate => { textOf(placeOf(asked, candidate.index)).textContent = candidate.text; });
    offer(asked);
  } catch (error) {
    if (isAbort(error) || !current(asked)) return;
    $("pair-title").textContent = "These answers are not complete, and nothing was learned from them.";
    say(error);
  } finally {
    if (current(asked)) {
      $("send").disabled = false;
      for (const card of CARDS) card.setAttribute("aria-busy", "false");
    }
  }
}

const placeOf = (asked, index) => (asked.swapped ? 1 - index : index);

function offer(asked) {
  if (asked.made.candidates.length < 2 || asked.made.candidates.some(candidate => !candidate.candidate_id)) {
    $("pair-title").textContent = "You can read these answers, but not teach with them.";
    say(new Error("What is known of people is out of reach at the moment, so this choice could not be learned. Ask again in a minute."));
    return;
  }
  $("choices").hidden = false;
  $("after").hidden = true;
  open(true);
  $("pair-title").textContent = "Which one do you like better? Who wrote them is shown once you have chosen.";
  $("announced").textContent = announcement();
}

const candidates = asked => [...asked.made.candidates].sort((one, other) => placeOf(asked, one.index) - placeOf(asked, other.index));

/** Sends a choice: the place that was liked, or null for a tie. */
async function choose(place) {
  const asked = round;
  if (!asked || !asked.made || asked.busy) return;
  asked.busy = true;
  open(false);
  const pair = candidates(asked), liked = place === null ? 0 : place;
  const body = {
    user: asked.person, chosen: pair[liked].candidate_id, rejected: pair[1 - liked].candidate_id, tie: place === null, event_id: asked.event,
  };
  try {
    await tell("feedback", { body, signal: asked.abort.signal });
    asked.busy = false;
    if (current(asked)) await shown(asked, place);
  } catch (error) {
    asked.busy = false;
    if (isAbort(error) || !current(asked)) return;
    if (error.code === "event-conflict") {
      await shown(asked, null);
      say(new Error("An earlier choice between these two had reached the server after all and was kept. Undo it to choose otherwise."));
      return;
    }
    say(error);
    open(true);
    (place === null ? $("choose-tie") : PICKS[place]).focus();
  }
}

async function shown(asked, place) {
  say(null);
  if (place !== null) CARDS[place].classList.add("won");
  $("pair-title").textContent = place === null ? "Noted: neither is better." : `Noted: you like the ${place ? "second" : "first"} one better.`;
  candidates(asked).forEach((candidate, at) => {
    CARDS[at].querySelector("h4").textContent = `${PLACES[at]} · by ${candidate.member}`;
  });
  $("choices").hidden = true;
  $("after").hidden = false;
  $("another").focus({ preventScroll: true });
  await Promise.all([learned().catch(() => {}), explain(asked)]);
}

/** Shows the heads' parts of each score, as the person is known after the choice. Scoring decides nothing and keeps nothing. */
async function explain(asked) {
  const event = asked.event; // another one after an undo, and then there is nothing to explain
  try {
    const body = { user: asked.person, prompt: asked.prompt, responses: candidates(asked).map(candidate => candidate.text), explain: true };
    const scored = await read("score", { body, signal: asked.abort.signal });
    if (!current(asked) || asked.event !== event) return;
    const parts = scored.scores.flatMap(score => score.explanation.map(one => Math.abs(one.contribution)));
    const high = Math.max(0.01, ...parts);
    scored.scores.forEach((score, at) => {
      const biggest = [...score.explanation].sort((one, other) => Math.abs(other.contribution) - Math.abs(one.contribution)).slice(0, 6);
      WHYS[at].replaceChildren(
        make("p", { className: "quiet", textContent: `Why the ${at ? "second" : "first"}: its score for you is now ${within(score.score, score.std)}, made of` }),
        make("ul", { className: "bars" }, ...biggest.map(one => bar(one.head, one.contribution, {
          low: -high, high, title: `how much you want of it (${number(one.weight)}) times how much this answer has of it (${number(one.reward)})`,
        }))),
      );
    });
    $("why").hidden = false;
  } catch (error) {
    if (!isAbort(error) && current(asked)) say(error);
  }
}

async function undo() {
  const asked = round;
  if (!asked || asked.busy) return;
  asked.busy = true;
  $("undo").disabled = true;
  try {
    await read(`users/${segment(asked.person)}/comparisons/${segment(asked.event)}`, { method: "DELETE", signal: asked.abort.signal });
    if (!current(asked)) return;
    say(null);
    asked.event = newId(); // the old one stays used
    CARDS.forEach((card, place) => {
      card.classList.remove("won");
      card.querySelector("h4").textContent = PLACES[place];
    });
    $("why").hidden = true;
    asked.busy = false; // what follows only reads, and nobody has to wait for it with the next choice
    offer(asked);
    $("pair-title").textContent = "Undone. Which one do you like better?";
    PICKS[0].focus({ preventScroll: true });
    await learned().catch(() => {});
  } catch (error) {
    asked.busy = false;
    if (!isAbort(error) && current(asked)) say(error);
  } finally { $("undo").disabled = false; }
}

function another() {
  const at = EXAMPLES.indexOf($("prompt").value);
  $("prompt").value = at < 0 ? EXAMPLES[tasks++ % EXAMPLES.length] : EXAMPLES[(at + 1) % EXAMPLES.length];
  $("prompt").focus();
  $("prompt").select();
  learned().catch(() => {});
}

$("ask").addEventListener("submit", event => {
  event.preventDefault();
  const prompt = $("prompt").value.trim();
  if (prompt && !$("send").disabled) ask(prompt);
});
PICKS.forEach((button, place) => button.addEventListener("click", () => choose(place)));
$("choose-tie").addEventListener("click", () => choose(null));
$("undo").addEventListener("click", undo);
$("again").addEventListener("click", () => { if (round) ask(round.prompt); });
$("another").addEventListener("click", another);
for (const chip of CHIPS) chip.addEventListener("click", () => { $("prompt").value = chip.textContent; if (!$("send").disabled) ask(chip.textContent); });
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || $("try").hidden) return;
  if (event.target.closest("input, textarea, select")) return;
  const button = { 1: PICKS[0], 2: PICKS[1], 0: $("choose-tie") }[event.key];
  if (button && !button.disabled && !$("choices").hidden) button.click();
});
