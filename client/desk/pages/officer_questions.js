// Questions to the officer, what became of them, and a last question before what counts at once.

import { attempt, el, say, send } from "/desk.js";

/** A question that waits, and how it is taken back. */
export function asks(question) {
  return el(
    "div",
    { class: "asks" },
    el("p", {}, el("b", {}, "Waits for the officer's signature: "), question.title),
    el("div", { class: "row" }, el("button", { type: "button", onclick: () => attempt(() => takeBack(question)) }, "Take back")),
  );
}

async function takeBack(question) {
  const { said } = await send(`officer/questions/${question.id}/take-back`);
  say(said);
}

/** What became of a question. */
export function became(settled) {
  const look = { signed: "became", "taken back": "became none" }[settled.outcome] ?? "became bad";
  return el(
    "div",
    { class: look },
    el("b", {}, { signed: "Signed. ", refused: "Not signed. ", failed: "Did not count. ", "taken back": "Taken back. " }[settled.outcome]),
    settled.said,
  );
}

/** Ask once more before something that counts at once. */
export function confirmed(text, label, { danger = false } = {}) {
  return new Promise((resolve) => {
    const box = el(
      "dialog",
      { "aria-label": label },
      el("p", {}, text),
      el(
        "div",
        { class: "row" },
        el("button", { type: "button", class: danger ? "danger" : "main", onclick: () => box.close("yes") }, label),
        el("button", { type: "button", autofocus: true, onclick: () => box.close("") }, "Cancel"),
      ),
    );
    box.addEventListener("close", () => {
      resolve(box.returnValue === "yes");
      box.remove();
    });
    document.body.append(box);
    box.showModal();
  });
}
