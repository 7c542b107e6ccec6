// What all pages share: requests, elements made of text alone, messages, live updates, keys that can be switched off.

/** An element; children that are strings become text, never markup. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Replace what an element holds. */
export function show(place, ...children) {
  place.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

export const byId = (id) => document.getElementById(id);

/** Ask the desk; throws an Error with what it says when it refuses. */
export async function ask(path, { method = "GET", body } = {}) {
  let answer;
  try {
    answer = await fetch(`/api/${path}`, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Error("The desk does not answer: is `synofed serve` still running?");
  }
  if (answer.status === 401) {
    throw new Error("This window's session has ended: open the newest link from the terminal.");
  }
  const isJson = (answer.headers.get("content-type") ?? "").includes("json");
  const content = isJson ? await answer.json() : null;
  if (!answer.ok) throw new Error(content?.error ?? `The desk refused this (${answer.status}).`);
  return content;
}

export const send = (path, body = {}) => ask(path, { method: "POST", body });

/** Say something, for eyes and for screen readers; errors stay until the next message. */
export function say(text, { error = false } = {}) {
  const place = byId("status");
  place.className = error ? "status error" : "status";
  place.textContent = text;
}

/** Run what a person asked for; what goes wrong is said. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    say(error.message, { error: true });
    return undefined;
  }
}

/** Told of each new state that the desk has, until the page is left. */
export function live(path, told) {
  const source = new EventSource(`/api/${path}`);
  source.addEventListener("message", (event) => told(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    const ended = source.readyState === EventSource.CLOSED; // the desk answered, and refused
    say(ended ? "This window's session has ended: open the newest link from the terminal." : "The connection to the desk is broken; trying again.", { error: true });
  });
  source.addEventListener("open", () => say(""));
  return source;
}

/** The head of a page: where one is, and the other pages of this desk. */
export async function head(current) {
  const desk = await ask("desk");
  document.title = `${desk.title} · ${current}`;
  const links = desk.pages.map((page) =>
    el("a", { href: page.href, "aria-current": page.title === current ? "page" : null }, page.title),
  );
  document.body.prepend(
    el(
      "header",
      { class: "desk" },
      el(
        "div",
        {},
        el("strong", {}, desk.title),
        el("nav", { "aria-label": "Desks" }, links),
        el("p", { class: "badges" }, el("span", { class: "badge warn" }, "research use only")),
      ),
    ),
  );
  return desk;
}

const OFF = "keys-off";

/** Whether single keys do something (WCAG 2.1.4: they can be switched off). */
export const keysOn = () => localStorage.getItem(OFF) === null;
export const switchKeys = (on) => (on ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "1"));

/** A list of a page's keys, pairs of key and what it does, with the switch that turns them off. */
export function showKeys(keys, note = "") {
  const box = el("dialog", { "aria-labelledby": "keys" },
    el("h2", { id: "keys" }, "Keys"),
    el("dl", {}, keys.map(([key, text]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, text)])),
    note ? el("p", { class: "soft" }, note) : null,
    el("label", { class: "row" }, el("input", { type: "checkbox", checked: keysOn(), onchange: (event) => switchKeys(event.target.checked) }), "Single keys do something"),
    el("form", { method: "dialog" }, el("button", { class: "main" }, "Close")));
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}

/** The key that was pressed as `Shift+2`, `Enter`, `a`; null while somebody types, or keys are off. */
export function pressed(event) {
  const typing = event.target instanceof Element && event.target.closest("textarea, select, input:not([type=radio]):not([type=checkbox])");
  if (!keysOn() || typing || event.ctrlKey || event.metaKey || event.altKey) return null;
  const digit = /^Digit([0-9])$/.exec(event.code) ?? /^Numpad([0-9])$/.exec(event.code);
  const key = digit ? digit[1] : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  return event.shiftKey ? `Shift+${key}` : key;
}

export const time = (text) => (text ? new Date(text).toLocaleString() : "");
export const bytes = (count) =>
  count < 1000 ? `${count} B` : count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`;
