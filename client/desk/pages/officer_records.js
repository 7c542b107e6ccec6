// What patients have spent, what left, the log, and a patient's withdrawal.

import { ask, attempt, bytes, el, say, send, show, time } from "/desk.js";

const table = (titles, rows, options = {}) =>
  el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": options.label },
    el(
      "table",
      { class: "wide" },
      el("thead", {}, el("tr", {}, titles.map((title, at) => el("th", { scope: "col", class: options.left?.includes(at) ? "left" : null }, title)))),
      Array.isArray(rows) ? el("tbody", {}, rows) : rows,
    ),
  );
const row = (cells, left = []) => el("tr", {}, cells.map((cell, at) => el("td", { class: left.includes(at) ? "left" : null }, cell)));
const more = (work) => el("button", { type: "button", onclick: (event) => attempt(() => work(event.target)) }, "Show more");
const reading = (place, title) => show(place, el("h2", {}, title), el("p", { class: "soft" }, "Reading …"));

export function ledger(place) {
  reading(place, "Privacy ledger");
  attempt(async () => {
    const found = await ask("officer/ledger");
    const most = found.maximum_epsilon ?? Math.max(found.epsilon, 1);
    const list = el("ul", { class: "spent" });
    const add = (patients) => list.append(...patients.map((one) => bar(one, most, found.maximum_epsilon)));
    add(found.by_patient);
    const next = more(async (button) => {
      const further = await ask(`officer/ledger?first=${list.children.length}`);
      add(further.by_patient);
      button.hidden = !further.more;
    });
    next.hidden = !found.more;
    show(
      place,
      el("h2", {}, "Privacy ledger"),
      el(
        "div",
        { class: "cards" },
        card(found.epsilon.toFixed(3), "epsilon of the patient who has spent most", `at delta ${found.delta}`),
        card(found.left === null ? "–" : found.left.toFixed(3), "left of the cap", found.maximum_epsilon === null ? "no private campaign is permitted" : `cap ${found.maximum_epsilon}`),
        card(found.patients, "patients were booked"),
        card(found.unbounded_patients, "of them without bound", "released without differential privacy"),
      ),
      found.campaigns.length
        ? table(
            ["Campaign", "Private releases", "Patients", "Epsilon alone", "Left out"],
            found.campaigns.map((one) =>
              row([
                `${one.campaign} ${one.plan_hash.slice(0, 12)}`,
                one.private || "–",
                one.patients,
                [one.private ? one.epsilon.toFixed(3) : "", one.unbounded ? "no bound" : ""].filter(Boolean).join(" + "),
                one.left_out || "–",
              ]),
            ),
            { label: "By campaign" },
          )
        : el("p", {}, "Nothing was booked yet."),
      found.by_patient.length
        ? [
            el("h3", {}, "By patient, who has spent most first"),
            el("p", { class: "soft" }, "Patients have a number in the ledger and no name. Epsilon is over all campaigns, for one patient added or removed; those of single campaigns do not add up to it."),
            list,
            next,
          ]
        : null,
    );
  });
  return {};
}

const card = (value, title, note = "") => el("div", { class: "card" }, el("b", {}, `${value}`), el("span", {}, title), el("small", { class: "soft" }, note));

function bar(one, most, maximum) {
  const filled = el("i");
  filled.style.width = `${Math.min(100, (100 * one.epsilon) / most)}%`;
  const also = [one.unbounded ? "no bound" : "", one.withdrew ? "withdrew" : ""].filter(Boolean).join(", ");
  return el(
    "li",
    {},
    el("span", {}, `patient ${one.number}`, also ? el("small", { class: "soft" }, ` ${also}`) : null),
    el("span", { class: "bar", role: "img", "aria-label": `${one.epsilon.toFixed(3)}${maximum === null ? "" : ` of ${maximum}`}` }, filled),
    el("span", { class: "number" }, one.epsilon.toFixed(3)),
  );
}

export function log(place) {
  reading(place, "Audit log");
  attempt(async () => {
    const rows = el("ol", { class: "log" });
    let last = null;
    const add = ({ entries, more: further }) => {
      rows.append(...entries.map(entry));
      last = entries.at(-1)?.sequence ?? last;
      next.hidden = !further;
    };
    const next = more(async () => add(await ask(`officer/log?before=${last}`)));
    add(await ask("officer/log"));
    show(
      place,
      el("h2", {}, "Audit log"),
      el("p", { class: "soft" }, "Newest first. Each line holds the hash of the one before; all of it was checked when this was read."),
      rows.children.length ? rows : el("p", {}, "Nothing has happened yet."),
      next,
    );
  });
  return {};
}

function entry({ sequence, facts, content }) {
  const line = [
    el("span", { class: "number" }, `${sequence}`),
    el("span", { class: "soft" }, time(content.time)),
    el("b", {}, content.event),
    content.officer ? el("span", { class: "badge good" }, "signed by the officer") : null,
    el("span", { class: "facts" }, facts),
  ];
  return el("li", {}, el("details", {}, el("summary", {}, line.filter(Boolean)), el("pre", {}, JSON.stringify(content, null, 2))));
}

export function outbox(place) {
  reading(place, "What left this site");
  attempt(async () => {
    const rows = el("tbody");
    const one = el("div", { "aria-live": "polite" });
    const add = ({ rows: found, more: further }) => {
      rows.append(...found.map((reply) => kept(reply, one)));
      next.hidden = !further;
    };
    const next = more(async () => add(await ask(`officer/outbox?first=${rows.children.length}`)));
    add(await ask("officer/outbox"));
    show(
      place,
      el("h2", {}, "What left this site"),
      el("p", { class: "soft" }, "Exact copies of the replies that left, newest first, as long as the policy keeps them."),
      rows.children.length ? table(["Left", "Campaign", "Round", "Group", "Bytes", ""], rows, { label: "Replies", left: [1, 3] }) : el("p", {}, "No reply is kept."),
      next,
      one,
    );
  });
  return {};
}

function kept(reply, where) {
  const button = el("button", { type: "button", onclick: () => attempt(() => details(reply.id, where)) }, "Show");
  if (reply.log === "damaged") return row([el("b", { class: "no" }, "damaged"), reply.id, "", "", "", ""], [1]);
  return row([time(reply.left), reply.campaign, reply.round, reply.group, bytes(reply.bytes), button], [1, 3]);
}

async function details(id, where) {
  const found = await ask(`officer/outbox/${encodeURIComponent(id)}`);
  const fields = Object.entries(found.fields).flatMap(([part, values]) => Object.entries(values).map(([name, value]) => [`${part}.${name}`, value]));
  show(
    where,
    el("h3", { tabindex: -1 }, `Reply to ${id}`),
    el("p", { class: found.problem ? "error" : null }, found.problem || `Reply ${found.sequence} of its campaign in the log and the receipt bear it out.`),
    el("dl", {}, fields.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, typeof value === "string" ? value : JSON.stringify(value))])),
    found.tensors.length
      ? table(["Tensor", "Type", "Shape", "Bytes", "Norm"], el("tbody", {}, found.tensors.map((one) => row([one.name, one.dtype, one.shape.join(" × "), bytes(one.size_bytes), one.norm.toPrecision(6)]))), { label: "Tensors" })
      : el("p", {}, "It holds no tensor."),
  );
  where.querySelector("h3").focus();
}

export function withdrawal(place) {
  const patient = el("input", { type: "text", id: "patient", required: true, autocomplete: "off", spellcheck: "false" });
  const found = el("div", { "aria-live": "polite" });
  show(
    place,
    el("h2", {}, "A patient withdraws"),
    el("p", {}, "The patient is never trained on again, their pictures and rows here are deleted, and the site signs a statement of what they took part in. It cannot be undone. First look at what would be done."),
    el(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          attempt(() => look(patient.value, found));
        },
        oninput: () => show(found),
      },
      el("fieldset", {}, el("legend", {}, "Patient"), el("label", { for: "patient" }, "Identifier, as in the manifest"), el("div", { class: "row" }, patient, el("button", { class: "main" }, "Look up"))),
    ),
    found,
  );
  return {};
}

async function look(patient, where) {
  show(where);
  const ahead = await send("officer/withdrawal/prospect", { patient });
  say("");
  const typed = el("input", { type: "text", id: "typed", autocomplete: "off", spellcheck: "false" });
  const button = el("button", { class: "danger", disabled: true }, "Withdraw this patient");
  const said = ahead.campaigns.map((one) => {
    const parts = [one.private_releases ? `${one.private_releases} private releases, epsilon ${one.epsilon.toFixed(3)}` : "", one.unbounded ? "without differential privacy: nothing bounds what it may reveal" : ""];
    return el("li", {}, `${one.campaign} (${one.plan_hash.slice(0, 12)}), ${one.rounds.length} rounds: ${parts.filter(Boolean).join("; ")}`);
  });
  show(
    where,
    el("h3", {}, "What would be done"),
    ahead.withdrawn ? el("p", {}, "This patient has withdrawn already: what is left of them is deleted, and the statement is shown again.") : null,
    el("dl", {}, el("dt", {}, "Deleted here"), el("dd", {}, `${ahead.exams} exams, ${ahead.pictures} pictures, and all that was computed from them`), el("dt", {}, "Took part in"), el("dd", {}, said.length ? el("ul", { class: "plain" }, said) : "nothing: nothing of the patient left this site"), el("dt", {}, "Together"), el("dd", {}, `epsilon ${ahead.epsilon.toFixed(3)} at delta ${ahead.delta}${ahead.unbounded ? ", and no bound for what left without differential privacy" : ""}`)),
    el(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          attempt(() => withdraw(patient, typed.value, where));
        },
      },
      el("fieldset", {}, el("legend", {}, "For ever"), el("label", { for: "typed" }, "Type the identifier once more"), el("div", { class: "row" }, typed, button)),
    ),
  );
  typed.addEventListener("input", () => (button.disabled = typed.value !== patient));
}

async function withdraw(patient, typed, where) {
  say("Withdrawing …");
  const { text, advice } = await send("officer/withdrawal", { patient, typed });
  say("It is done.");
  show(where, el("h3", {}, "The signed statement"), el("pre", { class: "statement" }, text), advice.map((line) => el("p", {}, line)));
}
