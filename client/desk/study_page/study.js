// A reader study's page: one exam after the other, in the order that the study gives; every choice is kept at once.
import { ask, attempt, byId, el, head, pressed, say, send, show, showKeys } from "/desk.js";
import { Viewer, toolbar, useTool } from "/viewer.js";
import { Grader } from "/grader.js";
import { answerView } from "/answer.js";

const main = byId("main");
const KEYS = [
  ["0 1 2 3", "first score (hypertrophy)"], ["Q W E R or Shift+0 1 2 3", "second score (vascularity)"],
  ["Enter", "lock the grades, go on"], ["M", "ruler"], ["V", "reset the view"], ["O", "one pixel is one pixel of the screen"],
  ["Space", "play a clip"], [", and .", "frame back, forward"], ["?", "this list"],
];
let open = null;

/** Seconds with the page in sight, and out of it. */
class Watch {
  constructor(seconds, hidden) {
    Object.assign(this, { seen: seconds, hidden, since: performance.now(), visible: !document.hidden });
  }

  turn() {
    const now = performance.now();
    this[this.visible ? "seen" : "hidden"] += (now - this.since) / 1000;
    this.since = now;
    this.visible = !document.hidden;
    return { seconds: this.seen, hidden_seconds: this.hidden };
  }
}

async function start() {
  await head("Study");
  document.addEventListener("keydown", keys);
  document.addEventListener("visibilitychange", () => { if (open?.watch) { open.watch.turn(); keep(); } });
  await next();
}

async function next() {
  if (open) open.viewer.close();
  open = null;
  const study = await ask("study");
  if (study.organiser) return standing(await ask("study/progress"));
  if (study.waits) return show(main, el("section", {}, el("h1", {}, "Not now"), el("p", {}, study.waits)));
  if (study.rest) return rest(study);
  if (study.case) return settle(study);
  await read(study);
}

function rest(study) {
  const { until } = study.rest;
  show(main, el("section", {},
    el("h1", {}, until ? "This session is finished" : "All is read"),
    el("p", {}, until ? `The next session may begin on ${new Date(until).toLocaleString()}. Your grades are kept.` : `Thank you, ${study.person}. Your grades are kept.`)));
}

function view(study, exam) {
  const grader = new Grader(study, () => { say(""); keep(); });
  const viewer = new Viewer(exam.images, (name, frame) => `/api/study/images/${encodeURIComponent(name)}?frame=${frame}&of=${exam.token}`, null);
  open = { study, exam, grader, viewer, tools: {}, answered: el("div", { class: "answer-side" }) };
  return open;
}

async function read(study) {
  const { task } = study;
  view(study, task);
  open.grader.set(task.draft);
  const aided = task.condition === "with";
  show(main,
    el("div", { class: "exam-head row" }, el("h1", { tabindex: "-1" }, `Exam ${task.done + 1} of ${task.total}`),
      el("span", { class: "badge" }, `session ${task.session}`), el("span", { class: `badge ${aided ? "good" : ""}` }, aided ? "with assistance" : "without assistance")),
    el("div", { class: "reading" },
      el("div", { class: "pictures-side" }, toolbar(open.viewer, open, task.images, help), open.viewer.element),
      el("form", { class: "panel", onsubmit: (event) => { event.preventDefault(); attempt(lock); } },
        el("p", {}, aided && Object.keys(task.draft).length ? "Your own grades are locked. Grade again, with the ensemble's answer in sight." : aided ? "Grade with the ensemble's answer in sight." : "Grade by what you see."),
        open.grader.element,
        el("div", { class: "row" }, el("button", { class: "main" }, "Lock, go on ", el("kbd", {}, "Enter")))),
      open.answered));
  open.viewer.render();
  main.querySelector("h1").focus({ preventScroll: true });
  const begin = () => { open.watch = new Watch(task.seconds, task.hidden_seconds); };
  if (!aided) return begin();
  // Time counts, and grades are taken, from when the answer is in sight.
  open.grader.lock();
  show(open.answered, el("p", { class: "soft" }, "The ensemble looks at the pictures …"));
  await attempt(async () => {
    const told = await send("study/answer");
    show(open.answered, answerView(told, (name) => `/api/study/heatmaps/${encodeURIComponent(name)}?of=${task.token}`));
    open.grader.render();
    begin();
  });
}

function keep() {
  if (!open?.watch) return;
  const { exam, grader, watch } = open;
  attempt(() => send("study/changed", { token: exam.token, condition: exam.condition, grades: grader.grades, ...watch.turn() }));
}

async function lock() {
  const { exam, grader, watch, study } = open;
  if (study.case) return settled(grader.grades);
  if (!watch) return say("The ensemble's answer is not in sight yet.", { error: true });
  if (!grader.whole) return say(`Expected a grade of ${grader.names.filter((name) => !(name in grader.grades)).join(" and ")}.`, { error: true });
  await send("study/graded", { token: exam.token, condition: exam.condition, grades: grader.grades, ...watch.turn() });
  say("");
  await next();
}

function settle(study) {
  const { case: exam } = study;
  view(study, exam);
  const given = Object.entries(exam.grades);
  show(main,
    el("div", { class: "exam-head row" }, el("h1", { tabindex: "-1" }, `Exam ${exam.done + 1} of ${exam.total}`), el("span", { class: "badge" }, given.length ? "discussion" : "decision")),
    el("div", { class: "reading" },
      el("div", { class: "pictures-side" }, toolbar(open.viewer, open, exam.images, help), open.viewer.element),
      el("form", { class: "panel", onsubmit: (event) => { event.preventDefault(); attempt(lock); } },
        given.length ? el("table", {}, el("caption", {}, "Grades without assistance"),
          el("thead", {}, el("tr", {}, ["reader", ...open.grader.names].map((name) => el("th", { scope: "col" }, name)))),
          el("tbody", {}, given.map(([reader, grades]) => el("tr", {}, el("th", { scope: "row" }, reader), open.grader.names.map((name) => el("td", {}, String(grades[name]))))))) : el("p", {}, "The readers came to no answer: yours is the reference."),
        open.grader.element,
        el("div", { class: "row" }, el("button", { class: "main" }, "Settled ", el("kbd", {}, "Enter")),
          given.length ? el("button", { type: "button", onclick: () => attempt(() => settled(null)) }, "No agreement") : null)),
      open.answered));
  open.viewer.render();
  main.querySelector("h1").focus({ preventScroll: true });
}

async function settled(grades) {
  await send("study/settled", { token: open.exam.token, grades });
  await next();
}

function standing(readers) {
  show(main, el("section", {}, el("h1", {}, "How far the study is"),
    el("div", { class: "scroll" }, el("table", { class: "wide" },
      el("caption", { class: "hidden-text" }, "Readers"),
      el("thead", {}, el("tr", {}, ["reader", "read", "session", "minutes without", "minutes with", "last", "waits until"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, readers.map((one) => el("tr", {}, el("th", { scope: "row" }, one.reader), el("td", {}, `${one.read} of ${one.planned}`), el("td", {}, String(one.session)),
        el("td", {}, String(one.minutes.without)), el("td", {}, String(one.minutes.with)), el("td", {}, one.last ? new Date(one.last).toLocaleString() : "-"),
        el("td", {}, one.waits ? new Date(one.waits).toLocaleString() : "-")))))),
    el("p", {}, el("a", { href: "/api/study/readings.csv", download: "readings.csv" }, "Table of readings (CSV)"), ", for `synofed readers`. It is kept in the site's folder, too.")));
}

const help = () => showKeys(KEYS);

function keys(event) {
  if (document.querySelector("dialog[open]") || !open) return;
  const key = pressed(event);
  if (key === null) return;
  const { viewer, grader } = open;
  const inControl = event.target.closest("button, a, summary");
  const actions = {
    m: () => useTool(open, viewer.tool === "ruler" ? "window" : "ruler"), v: () => viewer.reset(), o: () => viewer.pixels(),
    ",": () => viewer.step(-1), ".": () => viewer.step(1), "?": help, "Shift+?": help,
  };
  if (!open.watch && !open.study.case && key !== "?") return;
  if (grader.key(key, (text) => say(text, { error: true }))) { /* chosen */ }
  else if (key === "Enter" && !inControl) attempt(lock);
  else if (key === " " && !inControl && !event.target.closest("input")) viewer.play();
  else if (actions[key]) actions[key]();
  else return;
  event.preventDefault();
}

attempt(start);
