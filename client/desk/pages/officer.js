// The privacy officer's desk: what waits for a signature, and its parts.

import { ask, attempt, byId, el, head, live, say, show } from "/desk.js";
import { campaigns } from "/officer_campaigns.js";
import { policy } from "/officer_policy.js";
import { ledger, log, outbox, withdrawal } from "/officer_records.js";

const PARTS = {
  campaigns: ["Campaigns", campaigns],
  policy: ["Policy", policy],
  ledger: ["Ledger", ledger],
  outbox: ["What left", outbox],
  log: ["Log", log],
  withdrawal: ["Withdrawal", withdrawal],
};

let state = null;
let part = null;

/** Who signs, and how; nothing here ever sees the key. */
function key() {
  if (state.key) {
    return el(
      "section",
      { class: "note", "aria-label": "Signatures" },
      el("p", {}, "What is decided here counts once the privacy officer has signed it with the key ", el("b", {}, state.key), ". The officer runs this in a terminal of their own account, where the key is; this page never sees it:"),
      el("code", { class: "command" }, state.command),
      el("p", { class: "soft" }, "Policy: ", state.policy),
    );
  }
  return el(
    "section",
    { class: "note", "aria-label": "Signatures" },
    el("p", {}, el("b", {}, "No officer's key belongs to this site yet."), " Decisions about campaigns count at once, as with ", el("code", {}, "synofed site campaigns"), ": the log says who decided, and nothing proves it."),
    state.signs_policy
      ? el("p", {}, "The policy does need a signature. Make a key with ", el("code", {}, "synofed site policy officer-key officer.pem"), ", set the policy here, and sign it; that key is the officer's from then on:")
      : null,
    state.signs_policy ? el("code", { class: "command" }, state.command) : null,
    el("p", { class: "soft" }, "Policy: ", state.policy),
  );
}

function name() {
  const wanted = location.hash.slice(1);
  return Object.hasOwn(PARTS, wanted) ? wanted : "campaigns";
}

function open() {
  const current = name();
  show(
    byId("parts"),
    Object.entries(PARTS).map(([id, [title]]) =>
      el("a", { href: `#${id}`, "aria-current": id === current ? "true" : null }, title),
    ),
  );
  say("");
  const place = el("section", { "aria-label": PARTS[current][0] });
  show(byId("part"), place);
  part = PARTS[current][1](place, () => state);
}

function told({ state: next, problem }) {
  if (problem !== undefined) say(problem, { error: true });
  if (next === undefined) return;
  state = next;
  show(byId("key"), key());
  if (part === null) open();
  else part.update?.();
}

await attempt(async () => {
  await head("Officer");
  told({ state: await ask("officer/state") });
  window.addEventListener("hashchange", open);
  live("officer/live", told);
});
