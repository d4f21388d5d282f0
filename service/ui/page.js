// The page: which view is shown, who is asking, and the keys. Each view draws itself when it is shown.

import { $, say } from "./drawing.js";
import { clearServer, showServer } from "./operating.js";
import { showPerson } from "./person.js";
import { become, keys, newPerson, person, useKeys, watch } from "./state.js";
import { learned, question, reset } from "./trying.js";

const VIEWS = ["try", "you", "operate"];

const view = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "try");

async function show() {
  const now = view();
  for (const name of VIEWS) $(name).hidden = name !== now;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === "#" + now) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  say(null);
  if (now === "you") await showPerson(question());
  else if (now === "operate") await showServer();
  else await learned().catch(() => {});
}

/** Another person or key: what ran for the one before is stopped, and nothing of theirs stays on the screen. */
function changed() {
  $("user").value = person();
  reset();
  clearServer();
  return show();
}

// A server that asks for a key says so by its first refusal; until then nobody needs to see the boxes.
new MutationObserver(() => {
  if (/\b40[13] ·/.test($("said").textContent) || keys().key) $("keys").hidden = false;
  if (/\b40[13] ·/.test($("said").textContent)) $("keys").open = true;
}).observe($("said"), { childList: true });

$("user").value = person();
$("key").value = keys().key;
$("admin-key").value = keys().admin;
$("keys").hidden = !keys().key && !keys().admin;
watch(changed);
$("user").addEventListener("change", () => become($("user").value));
$("who").addEventListener("submit", event => { event.preventDefault(); become($("user").value); });
$("new-person").addEventListener("click", newPerson);
for (const box of [$("key"), $("admin-key")]) box.addEventListener("change", () => useKeys($("key").value, $("admin-key").value));
addEventListener("hashchange", async () => {
  await show();
  scrollTo(0, 0);
});
show();
