// HTTP: relative addresses (the page may live under a prefix), errors as sentences with the technical line apart, events of a stream.

import { keyOf } from "./state.js";

/** What went wrong, for a person (`message`) and for whoever mends it (`technical`). */
export class Failed extends Error {
  constructor(message, technical, status = 0, code = "") {
    super(message);
    Object.assign(this, { technical, status, code });
  }
  /** Whether the same request may succeed later. */
  get passing() { return this.status === 0 || this.status === 429 || this.status >= 502; }
}

export const isAbort = error => error.name === "AbortError";

const GONE = "The server does not answer. Check that it is running, then try again; what you see here is kept.";
const BROKE = "The connection broke before the answers were complete. Nothing was learned; please ask again.";
export const SENTENCES = {
  "unauthenticated": "This server needs an API key that it knows. Enter yours under “API keys”.",
  "forbidden": "The key does not have the right to do this. Enter an admin key under “API keys”.",
  "store-unavailable": "What is known of people is out of reach at the moment, so nothing can be learned or shown of you. Answers still come; try again in a minute.",
  "not-ready": "The server is starting or stopping. Try again in a few seconds.",
  "overloaded": "The server has more to do than it can at the moment. Try again in a few seconds.",
  "rate-limited": "That was too many requests in a short time. Wait a few seconds and try again.",
  "deadline-exceeded": "The answers took too long. Try again, or ask something shorter.",
  "member-failed": "The models behind this server could not answer. Try again; if it goes on, tell whoever runs the server.",
  "members-busy": "The models behind this server have more to do than they can at the moment. Try again in a few seconds.",
  "no-members": "This server scores answers and has no models that write them, so there is nothing to try here.",
  "expired-candidate": "These answers are too old to learn from. Ask again for fresh ones.",
  "unknown-candidate": "The server does not know these answers any more. Ask again for fresh ones.",
  "not-your-candidate": "These answers were written for somebody else. Ask again.",
  "unknown-event": "This choice is not there any more; it may have been undone already.",
  "unknown-decision": "There is no decision with this id, or it is too old and was let go.",
  "internal": "The server met an error of its own. Try again; its log has the details under the request id below.",
};

/**
 * Returns a name as one segment of a path. Browsers leave `.` and `..` out of every address, in whichever way they are written, so that
 * what is sent would name something else.
 */
export function segment(name) {
  if (name === "." || name === "..") {
    throw new Failed(`A browser cannot ask for something called “${name}”: it leaves that out of addresses. The commands and the clients can.`, "");
  }
  return encodeURIComponent(name);
}

/** Returns the error that a problem document tells of. */
export function told(problem) {
  const technical = [problem.status, problem.code, problem.detail, problem.request_id && "request " + problem.request_id].filter(Boolean).join(" · ");
  const sentence = SENTENCES[problem.code] || (problem.detail ? "The server did not accept this: " + problem.detail : "The server did not accept this.");
  return new Failed(sentence, technical, problem.status, problem.code);
}

async function refusal(answer) {
  const text = await answer.text().catch(() => "");
  try {
    const problem = JSON.parse(text);
    if (problem && problem.code) return told(problem);
  } catch { /* not ours: said below */ }
  const start = text.replace(/<[^>]*>/g, " ").replace(/\s+/g, " ").trim().slice(0, 120);
  return new Failed(
    "Something between this page and the server answered in its place, probably a proxy that cannot reach it. Try again in a moment.",
    `${answer.status} ${answer.headers.get("content-type") || "without a type"}${start ? " · " + start : ""}`,
    answer.status >= 500 ? 502 : answer.status,
  );
}

/** Returns the response of a request that succeeded; throws Failed, or the AbortError of `signal`. */
export async function call(path, { method, body, signal, admin = false } = {}) {
  const headers = {}, key = keyOf(admin);
  if (body) headers["content-type"] = "application/json";
  if (key) headers.authorization = "Bearer " + key;
  let answer;
  try {
    answer = await fetch(path, { method: method || (body ? "POST" : "GET"), headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Failed(GONE, `${path.split("/")[0]}: ${error.message}`);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

/** Returns the JSON of an answer; a page in its place is an error like any other. */
export async function read(path, options) {
  const answer = await call(path, options);
  const text = await body(answer, options);
  try { return JSON.parse(text); } catch {
    throw new Failed("Something between this page and the server answered in its place. Try again in a moment.", `${answer.status} without JSON · ${text.slice(0, 80)}`, 502);
  }
}

/** Returns the text of an answer; throws Failed if the connection breaks in the middle. */
export async function body(answer) {
  try { return await answer.text(); } catch (error) {
    if (isAbort(error)) throw error;
    throw new Failed(GONE, error.message);
  }
}

const wait = (ms, signal) => new Promise((done, left) => {
  const timer = setTimeout(done, ms);
  if (signal) signal.addEventListener("abort", () => { clearTimeout(timer); left(signal.reason); }, { once: true });
});

/** Sends what has an event id again, twice at most, where that can help: the server learns an event once however often it comes. */
export async function tell(path, options) {
  for (const pause of [300, 1200]) {
    try { return await read(path, options); } catch (error) {
      if (isAbort(error) || !error.passing) throw error;
      await wait(pause, options.signal);
    }
  }
  return read(path, options);
}

/** Yields [name, data] of each event of a stream; throws Failed where it ends too early or with an error. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", last = "";
  try {
    for (;;) {
      let piece;
      try { piece = await reader.read(); } catch (error) {
        if (isAbort(error)) throw error;
        throw new Failed(BROKE, error.message);
      }
      if (piece.done) break;
      const parts = (rest + piece.value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const name = part.match(/^event: (.*)$/m), data = part.match(/^data: (.*)$/m);
        if (!name || !data) continue;
        const value = JSON.parse(data[1]);
        if (name[1] === "error") throw told(value);
        yield [last = name[1], value];
      }
    }
    if (last !== "done") throw new Failed(BROKE, "the stream ended after " + (last || "nothing"));
  } finally { reader.cancel().catch(() => {}); }
}
