// Who is asking: the person, the keys of this tab, and what happens when either changes.
// `sessionStorage.key` is a method of the browser, so everything goes through getItem and setItem under names of our own.

const PERSON = "attune-person", KEY = "attune-key", ADMIN = "attune-admin-key";
const watchers = [];

/** Returns what this tab keeps under a name; empty where there is nothing. */
export function recall(name) {
  try { return sessionStorage.getItem(name) || ""; } catch { return ""; }
}

/** Keeps a value in this tab, or lets go of it where it is null. */
export function store(name, value) {
  // A browser without storage forgets at reload, and works until then.
  try { if (value === null) sessionStorage.removeItem(name); else sessionStorage.setItem(name, value); } catch { /* said above */ }
}

function anonymous() {
  const bytes = crypto.getRandomValues(new Uint8Array(8)); // five bits of each: forty in eight letters, which a phone has room for
  return "guest-" + Array.from(bytes, byte => (byte % 32).toString(32)).join("");
}

const now = { person: recall(PERSON) || anonymous(), key: recall(KEY), admin: recall(ADMIN) };
store(PERSON, now.person);

export const person = () => now.person;
export const keyOf = admin => (admin && now.admin) || now.key;
export const keys = () => ({ key: now.key, admin: now.admin });

/** Calls `changed` after every change of person or key. */
export function watch(changed) { watchers.push(changed); }

export function become(name) {
  const wanted = name.trim() || anonymous();
  if (wanted === now.person) return;
  now.person = wanted;
  store(PERSON, wanted);
  for (const changed of watchers) changed();
}

export function newPerson() { become(anonymous()); }

export function useKeys(key, admin) {
  now.key = key.trim();
  now.admin = admin.trim();
  store(KEY, now.key);
  store(ADMIN, now.admin);
  for (const changed of watchers) changed();
}

/** An id that is made once for each thing that is told, so that telling it again does no harm. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return "page-" + Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("");
}
