// Who is asking: the person, the keys of this tab, and what happens when either changes.
// `sessionStorage.key` is a method of the browser, so everything goes through getItem and setItem under names of our own.

const PERSON = "attune-person", KEY = "attune-key", ADMIN = "attune-admin-key";
const watchers = [];

function stored(name) {
  try { return sessionStorage.getItem(name) || ""; } catch { return ""; }
}

function keep(name, value) {
  try { sessionStorage.setItem(name, value); } catch { /* a browser without storage forgets at reload, and works until then */ }
}

function anonymous() {
  const bytes = crypto.getRandomValues(new Uint8Array(5));
  return "guest-" + Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("");
}

const now = { person: stored(PERSON) || anonymous(), key: stored(KEY), admin: stored(ADMIN) };
keep(PERSON, now.person);

export const person = () => now.person;
export const keyOf = admin => (admin && now.admin) || now.key;
export const keys = () => ({ key: now.key, admin: now.admin });

/** Calls `changed` after every change of person or key. */
export function watch(changed) { watchers.push(changed); }

export function become(name) {
  const wanted = name.trim() || anonymous();
  if (wanted === now.person) return;
  now.person = wanted;
  keep(PERSON, wanted);
  for (const changed of watchers) changed();
}

export function newPerson() { become(anonymous()); }

export function useKeys(key, admin) {
  now.key = key.trim();
  now.admin = admin.trim();
  keep(KEY, now.key);
  keep(ADMIN, now.admin);
  for (const changed of watchers) changed();
}

/** An id that is made once for each thing that is told, so that telling it again does no harm. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return "page-" + Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("");
}
