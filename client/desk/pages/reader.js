// The reader's page: a worklist, and one exam at a time.
import { ask, attempt, byId, el, head, pressed, say, send, show, showKeys, time } from "/desk.js";
import { Viewer, toolbar, useTool } from "/viewer.js";
import { Grader } from "/grader.js";
import { answerView } from "/answer.js";

const PAGE = 100;
const KEYS = [
  ["0 1 2 3", "first score (hypertrophy)"], ["Q W E R or Shift+0 1 2 3", "second score (vascularity)"],
  ["Enter", "keep and go to the next exam"], ["Backspace", "previous exam"], ["L or Escape", "back to the list"],
  ["A", "the ensemble's answer"], ["H", "regions on and off"], ["G", "draw regions"], ["M", "ruler"],
  ["N", "window and level again"], ["V", "reset the view"], ["O", "one pixel is one pixel of the screen"],
  ["Space", "play a clip"], [", and .", "frame back, forward"], ["X", "exclude"], ["?", "this list"],
];
const main = byId("main");
let reader, exams = [], found = [], page = 0, chosen = 0, query = "", state = "", open = null;

async function start() {
  await head("Exams");
  reader = await ask("reader");
  document.addEventListener("keydown", keys);
  window.addEventListener("hashchange", () => attempt(route));
  await (reader.name ? list() : askName());
}

function askName() {
  const input = el("input", { type: "text", id: "name", maxlength: "80", autocomplete: "off", required: true });
  show(main, el("section", {}, el("h1", {}, "Who reads?"),
    el("p", {}, "Your name stands beside every region and grade that you give here. It stays at this site."),
    el("form", { class: "row", onsubmit: (event) => {
      event.preventDefault();
      attempt(async () => { reader.name = (await send("reader", { name: input.value })).name; await list(); });
    } }, el("label", { for: "name" }, "Name"), input, el("button", { class: "main" }, "Begin"))));
  input.focus();
}

async function list() {
  exams = await ask("exams");
  say("");
  await route();
}

async function route() {
  const token = location.hash.slice(1);
  if (open) { open.viewer.close(); open = null; }
  const place = exams.findIndex((exam) => exam.token === token);
  if (place >= 0) await openExam(place);
  else worklist();
}

// --- the worklist

function filtered() {
  const wanted = query.toLowerCase().split(/\s+/).filter(Boolean);
  found = exams.filter((exam) => (!state || exam.state === state) && wanted.every((word) =>
    [exam.exam, exam.patient, exam.joint, exam.digit, exam.side, exam.visit, exam.device].some((text) => text.toLowerCase().includes(word))));
  page = Math.min(page, Math.max(0, Math.ceil(found.length / PAGE) - 1));
  chosen = Math.min(Math.max(chosen, page * PAGE), Math.min(found.length, (page + 1) * PAGE) - 1);
}

function worklist() {
  const rows = el("tbody");
  const count = el("p", { class: "soft", role: "status" });
  const pages = el("div", { class: "row" });
  const search = el("input", { type: "search", "aria-label": "Search exams", placeholder: "Search: joint, patient, machine …", value: query, class: "grow",
    oninput: () => { query = search.value; page = 0; chosen = 0; fill(); } });
  const states = el("select", { "aria-label": "State", onchange: () => { state = states.value; page = 0; chosen = 0; fill(); } },
    ["", "new", "graded", "excluded"].map((one) => el("option", { value: one, selected: one === state }, one || "all states")));
  const fill = () => {
    filtered();
    const done = exams.filter((exam) => exam.state !== "new").length;
    count.textContent = `${found.length} of ${exams.length} exams shown; ${done} read by ${reader.name}.`;
    show(rows, found.slice(page * PAGE, (page + 1) * PAGE).map((exam, index) => row(exam, page * PAGE + index)));
    const last = Math.ceil(found.length / PAGE) - 1;
    const turn = (by) => () => { page += by; chosen = page * PAGE; fill(); };
    show(pages, last > 0 ? [
      el("button", { type: "button", disabled: page === 0, onclick: turn(-1) }, "Previous"),
      el("span", {}, `Page ${page + 1} of ${last + 1}`),
      el("button", { type: "button", disabled: page === last, onclick: turn(1) }, "Next")] : []);
  };
  worklist.fill = fill;
  show(main, el("section", { class: "worklist" },
    el("div", { class: "row" }, el("h1", {}, "Exams"), search, states,
      el("button", { class: "main", type: "button", onclick: () => next(-1, (exam) => exam.state === "new") }, "Read the next new one")),
    count,
    el("div", { class: "scroll" }, el("table", { class: "wide list" },
      el("caption", { class: "hidden-text" }, "Exams of this site"),
      el("thead", {}, el("tr", {}, ["exam", "patient", "joint", "visit", "machine", "images", "state"].map((name) => el("th", { scope: "col" }, name)))),
      rows)),
    pages,
    el("p", { class: "soft" }, "Arrow keys choose, Enter opens, / searches, ? shows all keys.")));
  fill();
}

function row(exam, index) {
  const name = [exam.joint, exam.digit, exam.side].filter(Boolean).join(" ");
  return el("tr", { "aria-selected": String(index === chosen), class: index === chosen ? "chosen" : null },
    el("th", { scope: "row" }, exam.problem ? exam.exam : el("a", { href: `#${exam.token}` }, exam.exam)),
    el("td", {}, exam.patient), el("td", {}, name), el("td", {}, exam.visit), el("td", {}, exam.device),
    el("td", {}, exam.images.join(", ")),
    el("td", {}, exam.problem ? el("span", { class: "badge bad" }, exam.problem) : el("span", { class: `badge ${exam.state === "graded" ? "good" : exam.state === "excluded" ? "warn" : ""}` }, exam.state)));
}

/** Go to the next (1) or previous exam of the list as it is filtered; from the worklist to the first that fits. */
function next(from, fits = () => true, by = 1) {
  for (let place = from + by; place >= 0 && place < found.length; place += by) {
    if (!found[place].problem && fits(found[place])) { location.hash = found[place].token; return true; }
  }
  location.hash = "";
  say(by > 0 ? "That was the last exam of the list." : "That was the first exam of the list.");
  return false;
}

// --- one exam

async function openExam(place) {
  if (!found.length) filtered();
  const listed = exams[place];
  const token = listed.token;
  const exam = await attempt(() => ask(`exams/${token}`));
  if (!exam) { worklist(); return; }
  const source = (name, frame) => `/api/exams/${token}/images/${encodeURIComponent(name)}?frame=${frame}`;
  const viewer = new Viewer(exam.images, source, (name, region) => attempt(async () => {
    const kept = await send(`exams/${token}/region`, { image: name, roi: region && region.join(" ") });
    for (const [index, pane] of viewer.panes.entries()) pane.kept(kept.images[index]);
    say("Region kept.");
  }));
  const grader = new Grader(reader, () => say(""));
  grader.set(exam.reading?.grades ?? {});
  open = { token, exam, listed, viewer, grader, answered: el("div", { class: "answer-side" }), tools: {} };
  const where = found.findIndex((one) => one.token === token);
  show(main,
    el("div", { class: "exam-head row" },
      el("h1", {}, exam.exam), el("span", { class: "soft" }, `${[exam.joint, exam.digit, exam.side, exam.view].filter(Boolean).join(" ")} · patient ${exam.patient} · ${exam.visit} · ${exam.device}`),
      el("span", { class: "soft" }, where >= 0 ? `${where + 1} of ${found.length}` : ""),
      el("a", { href: "#" }, "Back to the list")),
    el("div", { class: "reading" },
      el("div", { class: "pictures-side" }, toolbar(viewer, open, exam.images, help), viewer.element),
      panel(exam), open.answered));
  viewer.render();
  main.querySelector("h1").tabIndex = -1;
  main.querySelector("h1").focus({ preventScroll: true });
  const after = found[where + 1];
  if (after && !after.problem) for (const name of after.images) new Image().src = `/api/exams/${after.token}/images/${encodeURIComponent(name)}?frame=1`;
}

function panel(exam) {
  const suggested = new Set(exam.images.flatMap((image) => image.reasons));
  const reading = exam.reading;
  const reason = (text) => el("label", {}, el("input", { type: "checkbox", name: "reason", value: text, checked: reading?.reasons.includes(text) ?? false }), text,
    suggested.has(text) ? el("span", { class: "badge warn" }, "suggested by the pixels") : null);
  open.quality = el("select", { "aria-label": "Image quality" },
    ["", ...reader.qualities].map((one) => el("option", { value: one, selected: one === (reading?.quality ?? "") }, one || "not said")));
  open.reasons = el("div", { class: "reasons" }, reader.reasons.map(reason));
  open.excluded = el("input", { type: "checkbox", checked: reading?.excluded ?? false });
  open.comment = el("textarea", { rows: "2", maxlength: "2000", "aria-label": "Comment" });
  open.comment.value = reading?.comment ?? "";
  open.ask = el("button", { type: "button", disabled: !reader.assistance, onclick: () => attempt(answer) }, "Ask the ensemble ", el("kbd", {}, "A"));
  return el("form", { class: "panel", onsubmit: (event) => { event.preventDefault(); attempt(submit); } },
    el("p", { class: "soft" }, reading ? `Read by you ${time(reading.time)}${reading.assisted ? ", after the ensemble's answer" : ""}.` : "Not read by you yet."),
    open.grader.element,
    el("details", { open: suggested.size > 0 || Boolean(reading?.quality || reading?.reasons.length) }, el("summary", {}, "Image quality"),
      el("label", { class: "row" }, "Quality", open.quality), open.reasons),
    el("label", { class: "row" }, open.excluded, "Exclude this exam"),
    el("label", {}, "Comment", open.comment),
    el("div", { class: "row" }, el("button", { class: "main" }, "Keep, next ", el("kbd", {}, "Enter")), open.ask),
    reader.assistance ? null : el("p", { class: "soft" }, "This site has received no ensemble yet."));
}

async function submit() {
  const { token, grader, listed } = open;
  const reasons = [...open.reasons.querySelectorAll("input:checked")].map((input) => input.value);
  const kept = await send(`exams/${token}/reading`, {
    grades: grader.grades, quality: open.quality.value, reasons, excluded: open.excluded.checked, comment: open.comment.value.trim(),
  });
  listed.state = kept.excluded ? "excluded" : "graded";
  say(`${listed.exam} is kept.`);
  next(found.findIndex((one) => one.token === token));
}

async function answer() {
  const { token, answered, grader } = open;
  if (!grader.whole && !window.confirm("You have not graded yet. Grades given after the answer are not used for training. Show it?")) return;
  if (grader.whole && !open.exam.reading) {
    await send(`exams/${token}/reading`, { grades: grader.grades });
    open.listed.state = "graded";
  }
  say("The ensemble looks at the pictures …");
  const told = await send(`exams/${token}/answer`);
  show(answered, answerView(told, (name) => `/api/exams/${token}/heatmaps/${encodeURIComponent(name)}`));
  say("The ensemble's answer is below the pictures.");
}

const help = () => showKeys(KEYS, "Mouse: drag for window and level, wheel for zoom (in clips frames; with Shift zoom), right drag zooms, middle drag pans.");

// --- keys

function keys(event) {
  if (document.querySelector("dialog[open]")) return;
  const key = pressed(event);
  if (key === null) return;
  if (key === "?" || key === "Shift+?" || key === "Shift+ß") { event.preventDefault(); return help(); }
  const taken = open ? examKey(key, event) : reader?.name && listKey(key, event);
  if (taken) event.preventDefault();
}

function listKey(key, event) {
  const inControl = event.target.closest("button, a, select, summary");
  const moves = { ArrowDown: 1, ArrowUp: -1 };
  if (moves[key] && !event.target.closest("select")) {
    chosen = Math.min(Math.max(chosen + moves[key], page * PAGE), Math.min(found.length, (page + 1) * PAGE) - 1);
    worklist.fill();
    main.querySelector("tr.chosen")?.scrollIntoView({ block: "nearest" });
  } else if (key === "Enter" && !inControl && found[chosen] && !found[chosen].problem) location.hash = found[chosen].token;
  else if (key === "/") main.querySelector("input[type=search]").focus();
  else return false;
  return true;
}

function examKey(key, event) {
  const { viewer, grader } = open;
  const place = found.findIndex((one) => one.token === open.token);
  if (grader.key(key, (text) => say(text, { error: true }))) return true;
  const inControl = event.target.closest("button, a, summary, select");
  const actions = {
    Backspace: () => next(place, undefined, -1), l: () => { location.hash = ""; }, Escape: () => { location.hash = ""; },
    a: () => attempt(answer), h: () => viewer.switchOverlays(), g: () => useTool(open, viewer.tool === "region" ? "window" : "region"),
    m: () => useTool(open, viewer.tool === "ruler" ? "window" : "ruler"), n: () => useTool(open, "window"), v: () => viewer.reset(), o: () => viewer.pixels(),
    ",": () => viewer.step(-1), ".": () => viewer.step(1), x: () => { open.excluded.checked = !open.excluded.checked; },
  };
  if (key === "Enter" && !inControl) attempt(submit);
  else if (key === " " && !inControl && !event.target.closest("input")) viewer.play();
  else if (actions[key]) actions[key]();
  else return false;
  return true;
}

attempt(start);
