// What changes while one looks: tables whose cells are replaced one by one, times that say how long ago, news said aloud.
import { byId, el, show } from "/desk.js";

const ago = (seconds) => {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s ago`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
};

function refresh(place) {
  const text = ago((Date.now() - new Date(place.dateTime).getTime()) / 1000);
  if (place.textContent !== text) place.textContent = text;
}

setInterval(() => document.querySelectorAll("time[data-ago]").forEach(refresh), 5000);

/** When something was, as how long ago; nothing for no time. */
export function since(text) {
  if (!text) return "";
  const made = el("time", { datetime: text, title: new Date(text).toLocaleString(), "data-ago": "" });
  refresh(made);
  return made;
}

/** A word in a frame; `kind` is "good", "warn" or "bad". */
export const badge = (text, kind = "") => el("span", { class: `badge ${kind}` }, text);

export const KINDS = {
  COMPLETE_ALL_SITES: "good", COMPLETE_SUBSET: "warn", FAILED: "bad", INTERRUPTED: "warn", STOPPED: "warn",
  present: "good", waiting: "warn", away: "bad", declined: "bad", connected: "good", approved: "good", paused: "warn",
  connecting: "warn", left: "bad",
};

const LONG = 24; // letters: such a cell keeps some width on a small screen

/** What a cell shows, from a text or `{ text, small, href, kind, time }`. */
function content(cell) {
  if (cell === null || typeof cell !== "object") return [`${cell ?? ""}`];
  let main = cell.time !== undefined ? since(cell.time) || (cell.text ?? "") : `${cell.text ?? ""}`;
  if (cell.kind !== undefined && main) main = badge(main, cell.kind);
  if (cell.href) main = el("a", { href: cell.href }, main);
  return cell.small ? [main, el("small", {}, cell.small)] : [main];
}

/** A table that can be filled again and again; what has the focus keeps it where its cell stays the same. */
export class LiveTable {
  constructor(caption, columns, { numbers = [] } = {}) {
    this.numbers = new Set(numbers);
    this.body = el("tbody");
    this.foot = el("tfoot");
    const heads = columns.map((name, at) => el("th", { scope: "col", class: this.numbers.has(at) ? null : "words" }, name || el("span", { class: "hidden-text" }, "what")));
    const table = el("table", { class: "wide" }, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads)), this.body, this.foot);
    this.element = el("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" }, table);
  }

  fill(rows, last = []) {
    this.#rows(this.body, rows);
    this.#rows(this.foot, last);
    this.element.hidden = rows.length === 0;
  }

  #rows(part, rows) {
    while (part.rows.length > rows.length) part.deleteRow(-1);
    rows.forEach((cells, at) => {
      const row = part.rows[at] ?? part.insertRow();
      cells.forEach((cell, number) => this.#cell(row, cell, number));
      while (row.cells.length > cells.length) row.deleteCell(-1);
    });
  }

  #cell(row, cell, number) {
    let place = row.cells[number];
    if (!place) {
      place = el(number ? "td" : "th", number ? {} : { scope: "row" });
      if (!this.numbers.has(number)) place.classList.add("words");
      row.append(place);
    }
    const what = JSON.stringify(cell ?? "");
    if (place.what === what) return;
    place.what = what;
    place.classList.toggle("long", `${cell?.text ?? (typeof cell === "string" ? cell : "")}`.length > LONG);
    show(place, ...content(cell));
  }
}

/** Cards: large texts, or times, with what they are. */
export function cards(place, entries) {
  const what = JSON.stringify(entries);
  if (place.what === what) return;
  place.what = what;
  const made = ([value, label, small]) => el("div", { class: "card" }, el("b", {}, value?.time !== undefined ? since(value.time) : value), el("span", {}, label), small ? el("small", {}, small) : null);
  show(place, entries.map(made));
}

/** The end of a log: lines are added, the oldest are left out, and who has scrolled up stays there. */
export function addLines(place, lines, { afresh = false, most = 300 } = {}) {
  const atEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 40;
  const before = afresh || !place.textContent ? [] : place.textContent.split("\n");
  place.textContent = [...before, ...lines].slice(-most).join("\n");
  if (atEnd || afresh) place.scrollTop = place.scrollHeight;
}

/** Says what changed, once, to screen readers too: of states, not of numbers; what changes at once is said at once. */
export class News {
  #known = new Map();
  #waiting = [];

  tell(name, state) {
    const before = this.#known.get(name);
    this.#known.set(name, state);
    if (before === undefined || before === state) return;
    if (this.#waiting.length === 0) queueMicrotask(() => this.#say());
    this.#waiting.push(`${name}: ${state}`);
  }

  #say() {
    byId("news").textContent = this.#waiting.join("; ");
    this.#waiting = [];
  }
}

/** What cannot be shown, and why; empty: nothing. */
export function problem(text) {
  const place = byId("problem");
  place.hidden = !text;
  place.textContent = text;
}
