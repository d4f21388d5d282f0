// The HTTP API, drawn from the server's own OpenAPI document: what there is, what each field means, examples, and a way to send one.

import { body, call, read, segment } from "./calls.js";
import { $, make, say } from "./drawing.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const NAME = reference => reference.split("/").pop();

/** Returns paragraphs of a description; what stands between backticks is code. */
function words(text) {
  return text.split(/\n\s*\n/).map(paragraph => make("p", {}, ...inline(paragraph)));
}

function inline(text) {
  return (text || "").split(/`([^`]+)`/).map((part, at) => (at % 2 ? make("code", { textContent: part }) : document.createTextNode(part)));
}

/** Returns what may stand in a place, in words; types of the document are links to their tables. */
function kind(schema) {
  if (schema.$ref) return [make("a", { href: "#type-" + NAME(schema.$ref), textContent: NAME(schema.$ref) })];
  if (schema.anyOf) return schema.anyOf.flatMap((one, at) => [...(at ? [" or "] : []), ...kind(one)]);
  if (schema.enum) return [schema.enum.map(value => JSON.stringify(value)).join(" or ")];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.type === "array") return ["list of ", ...kind(schema.items || {})];
  if (schema.additionalProperties && typeof schema.additionalProperties === "object") return ["object of ", ...kind(schema.additionalProperties)];
  return [[].concat(schema.type || "anything").join(" or ") + limits(schema)];
}

function limits(schema) {
  const told = [];
  if (schema.minimum !== undefined) told.push(`≥ ${schema.minimum}`);
  if (schema.exclusiveMinimum !== undefined) told.push(`> ${schema.exclusiveMinimum}`);
  if (schema.maximum !== undefined) told.push(`≤ ${schema.maximum}`);
  if (schema.exclusiveMaximum !== undefined) told.push(`< ${schema.exclusiveMaximum}`);
  if (schema.maxLength !== undefined) told.push(`at most ${schema.maxLength} characters`);
  return told.length ? ` (${told.join(", ")})` : "";
}

/** Returns a table of fields: name, type, meaning. */
function table(title, rows) {
  if (!rows.length) return null;
  const cell = (name, children) => make("td", { className: name }, ...children);
  const drawn = make("table", {}, make("caption", { className: "quiet", textContent: title }),
    make("thead", {}, make("tr", {}, ...["Name", "Type", "Meaning"].map(text => make("th", { textContent: text, scope: "col" })))),
    make("tbody", {}, ...rows.map(([name, type, meaning]) => make("tr", {},
      cell("name", [make("code", { textContent: name })]), cell("kind", type), cell("meaning", inline(meaning))))));
  const around = make("div", { className: "scroll", tabIndex: 0 }, drawn);
  around.setAttribute("role", "region");
  around.setAttribute("aria-label", title);
  return around;
}

function fields(title, schema, schemas) {
  const found = schema.$ref ? schemas[NAME(schema.$ref)] : schema, needed = new Set(found.required || []);
  return table(title, Object.entries(found.properties || {}).map(([name, one]) => [
    name, [...kind(one), ...(title.startsWith("Request") && needed.has(name) ? [" (required)"] : [])], one.description || "",
  ]));
}

const shown = value => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function example(title, value) {
  const pre = make("pre", { textContent: shown(value), tabIndex: 0 });
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", title);
  return make("details", {}, make("summary", { textContent: title }), pre);
}

/** Returns what sends an example that the reader may change, and shows what came back. */
function sender(method, path, operation, unique) {
  const [type, media] = Object.entries((operation.requestBody || { content: {} }).content)[0] || [];
  const answer = make("pre", { hidden: true, tabIndex: 0 }), button = make("button", { type: "submit", textContent: "Send" });
  answer.setAttribute("role", "region");
  answer.setAttribute("aria-label", "Answer");
  const boxes = (operation.parameters || []).filter(one => one.in !== "header").map((one, at) => {
    const box = make("input", { id: `${unique}-${at}`, value: one.example === undefined ? "" : one.example, autocomplete: "off", required: one.in === "path" });
    return { one, box, label: make("label", { htmlFor: box.id, textContent: one.name }) };
  });
  const text = media && make("textarea", { spellcheck: false }), choose = media && make("select");
  if (media) {
    text.setAttribute("aria-label", "Body of the request");
    choose.setAttribute("aria-label", "Example");
    choose.append(...Object.keys(media.examples || {}).map(name => make("option", { textContent: name })));
    const fill = () => { text.value = shown(media.examples[choose.value].value); };
    choose.addEventListener("change", fill);
    fill();
  }
  const send = async event => {
    event.preventDefault();
    if (method === "delete" && !confirm("Send this to the server? What it deletes cannot be brought back.")) return;
    button.disabled = true;
    answer.hidden = false;
    answer.textContent = "…";
    let address = path.slice(1);
    const query = new URLSearchParams();
    try {
      for (const { one, box } of boxes) {
        if (one.in === "path") address = address.replace(`{${one.name}}`, segment(box.value));
        else if (box.value) query.set(one.name, box.value);
      }
      const sent = media && type === "application/json" ? JSON.parse(text.value) : undefined;
      const got = await call(address + (query.size ? "?" + query : ""), { method: method.toUpperCase(), body: sent, admin: true });
      const told = await body(got);
      try { answer.textContent = shown(JSON.parse(told)); } catch { answer.textContent = told; }
    } catch (error) { answer.textContent = [error.message, error.technical].filter(Boolean).join("\n"); }
    button.disabled = false;
  };
  if (media && type !== "application/json") return null;
  const form = make("form", {}, choose || null, text || null, make("div", { className: "send" }, ...boxes.flatMap(({ label, box }) => [label, box]), button), answer);
  form.addEventListener("submit", send);
  return form;
}

function drawOperation(method, path, operation, schemas) {
  const at = `${method}-${path.split(/\W+/).filter(Boolean).join("-")}`;
  const drawn = make("details", { className: "operation", id: at }, make("summary", {},
    make("span", { className: "method", textContent: method.toUpperCase() + " " }), make("code", { textContent: path }), " ", ...inline(operation.summary)));
  const fill = () => {
    if (drawn.children.length > 1) return;
    const parts = [...words(operation.description || "")];
    parts.push(table("Parameters", (operation.parameters || []).map(one => [one.name, [...kind(one.schema || {}), ` (${one.in})`], one.description || ""])));
    for (const media of Object.values((operation.requestBody || { content: {} }).content)) {
      if (media.schema) parts.push(fields("Request", media.schema, schemas));
    }
    parts.push(sender(method, path, operation, at));
    const errors = [];
    for (const [status, answer] of Object.entries(operation.responses)) {
      if (!status.startsWith("2")) { errors.push(`${status} ${answer.description.toLowerCase()}`); continue; }
      for (const [type, media] of Object.entries(answer.content || {})) {
        if (media.schema && Object.keys(media.schema).length) parts.push(fields("Answer", media.schema, schemas));
        if (media.example !== undefined) parts.push(example(`Example of an answer, ${type}`, media.example));
      }
    }
    if (errors.length) parts.push(make("p", { className: "quiet", textContent: "Errors: " + errors.join(", ") + "." }));
    drawn.append(...parts.filter(Boolean));
  };
  drawn.addEventListener("toggle", fill);
  drawn.dataset.words = `${method} ${path} ${operation.summary} ${operation.description} ${JSON.stringify(operation.requestBody || "")}`.toLowerCase();
  return drawn;
}

function draw(spec) {
  const schemas = spec.components.schemas, places = new Map(spec.tags.map(tag => [tag.name, []]));
  for (const [path, methods] of Object.entries(spec.paths)) {
    for (const method of METHODS.filter(name => methods[name])) places.get(methods[method].tags[0]).push(drawOperation(method, path, methods[method], schemas));
  }
  $("about").textContent = `${spec.info.summary} Version ${spec.info.version}.`;
  $("operations").replaceChildren(...spec.tags.map(tag => make("section", {},
    make("h2", { textContent: tag.name[0].toUpperCase() + tag.name.slice(1) }), make("p", { className: "quiet", textContent: tag.description }), ...places.get(tag.name))));
  $("types").replaceChildren(...Object.entries(schemas).sort().map(([name, schema]) => make("details", { className: "operation", id: "type-" + name },
    make("summary", {}, make("code", { textContent: name })), ...words(schema.description || ""), fields(name, schema, schemas))));
}

/** Shows the operations that have every word of the search. */
function search() {
  const wanted = $("find").value.toLowerCase().split(/\s+/).filter(Boolean), all = [...$("operations").querySelectorAll(".operation")];
  for (const one of all) one.hidden = !wanted.every(word => one.dataset.words.includes(word));
  for (const part of $("operations").children) part.hidden = !part.querySelector(".operation:not([hidden])");
  const left = all.filter(one => !one.hidden).length;
  $("found").textContent = wanted.length ? `${left} of ${all.length} operations` : "";
}

/** Opens what the address names, so that links to types and operations show them. */
function open() {
  const named = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named && named.tagName === "DETAILS") { named.open = true; named.scrollIntoView(); }
}

$("find").addEventListener("input", search);
addEventListener("hashchange", open);
read("openapi.json").then(spec => { draw(spec); open(); }).catch(say);
