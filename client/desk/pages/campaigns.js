// What the centre asked of this site, what left, and what waits for its people.
import { attempt, byId, bytes, el, head, live, show } from "/desk.js";
import { addLines, cards, KINDS, LiveTable, News, problem } from "/live.js";

const news = new News();
const ASKS = { plan: "agree to the plan", train: "train", ensemble: "keep the networks", evaluate: "judge the networks" };
const asks = (request) => ASKS[request] ?? request ?? "";

const waits = el("p", { hidden: true });
const connection = el("div", { class: "cards" });
const reason = el("p", { class: "soft", hidden: true });
const none = el("p", { hidden: true }, "No campaign yet: the centre has asked for none.");
const campaigns = new LiveTable(
  "What passed between the centre and this site, by campaign",
  ["campaign", "decision", "first asked", "requests", "received", "replies that left", "sent", "last left", "refused"],
  { numbers: [3, 4, 5, 6, 8] },
);
const sent = new LiveTable(
  "Replies that left, the newest first",
  ["left", "campaign", "answers", "round", "group", "bytes", "receipt", "kept in the outbox"],
  { numbers: [3, 5, 6] },
);
const log = el("pre", { class: "log", tabindex: "0", "aria-label": "The last entries of the audit log" });
const kept = el("p", { class: "soft" });

function build() {
  show(
    byId("main"),
    el("h1", {}, "Campaigns"),
    el("p", { id: "news", class: "soft", role: "status", "aria-live": "polite" }),
    el("p", { id: "status", class: "status" }),
    el("p", { id: "problem", class: "error", hidden: true }),
    waits,
    connection,
    reason,
    el("section", {}, el("h2", {}, "Campaigns"), none, campaigns.element),
    el("section", {}, el("h2", {}, "What left"), kept, sent.element),
    el("section", {}, el("h2", {}, "Audit log"), log),
  );
}

const ago = (text) => (text ? new Date(text).toLocaleString() : "");

function overview(now) {
  const { status, working, hours } = now;
  if (!status || !hours) return;
  const task = working?.request ? `${asks(working.request)}${working.server_round ? `, round ${working.server_round}` : ""}` : "";
  cards(connection, [
    [status.connection, "connection to the centre", status.since ? `since ${ago(status.since)}` : ""],
    [working ? "working" : "idle", task ? `${task}: ${working.campaign}` : "at this moment", working?.time ? `since ${ago(working.time)}` : ""],
    [hours.open ? "open" : "closed", hours.entries.length ? `trains ${hours.entries.join(", ")}` : "trains at all hours", hours.zone],
    [status.last_time ? { time: status.last_time } : "never", "last entry of the audit log", status.last],
  ]);
  reason.hidden = !status.reason;
  reason.textContent = status.reason;
  news.tell("Connection", status.reason ? `${status.connection}, ${status.reason}` : status.connection);
}

const row = (name, counted) => [
  ...name,
  counted.requests,
  bytes(counted.request_bytes),
  { text: counted.replies, small: counted.repeated ? `${counted.repeated} left again` : "" },
  bytes(counted.reply_bytes),
  counted.sent ? { time: counted.sent } : "never",
  { text: counted.refused, small: counted.refused ? counted.refusal : "" },
];

function decision(one) {
  const what = { text: one.status || "not asked here", kind: KINDS[one.status] ?? (one.status === "waiting" ? "warn" : "") };
  if (one.status === "waiting") return { ...what, href: "/officer.html", small: "decide at the officer's desk" };
  return { ...what, small: one.by ? `by ${one.by}, ${ago(one.decided)}` : "" };
}

function list(found, total) {
  none.hidden = found.length > 0;
  campaigns.fill(
    found.map((one) =>
      row([{ text: one.name || one.plan_hash.slice(0, 12), small: one.plan_hash.slice(0, 12) }, decision(one), one.first_asked ? { time: one.first_asked } : ""], one.passed),
    ),
    [row(["all", "", ""], total)],
  );
  const waiting = found.filter((one) => one.status === "waiting").length;
  waits.hidden = waiting === 0;
  show(waits, `${waiting === 1 ? "One campaign waits" : `${waiting} campaigns wait`} for a decision: `, el("a", { href: "/officer.html" }, "officer's desk"));
  for (const one of found) news.tell(one.name || one.plan_hash.slice(0, 12), one.status);
}

const now = {};

function told(changed) {
  if ("problem" in changed) problem(changed.problem);
  Object.assign(now, changed);
  overview(now);
  if ((changed.campaigns || changed.total) && now.campaigns && now.total) list(now.campaigns, now.total);
  if (changed.sent) {
    sent.fill(
      changed.sent.map((one) => [
        { time: one.time }, one.campaign, asks(one.request), one.server_round || "", one.group ?? "", bytes(one.reply_bytes ?? 0),
        one.receipt ?? "", one.kept ? "yes" : "no",
      ]),
    );
  }
  if ("kept" in changed) {
    const what = changed.kept === 1 ? "One reply is" : `${changed.kept || "No"} replies are`;
    kept.textContent = `${what} kept in the outbox, byte for byte. A receipt's number counts the replies of its campaign.`;
  }
  if (changed.log) addLines(log, changed.log.lines, changed.log);
}

await attempt(async () => {
  build();
  await head("Campaigns");
  live("traffic", told);
});
