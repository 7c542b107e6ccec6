// Campaigns, each as the one page that is approved, and what is decided about it.

import { ask, attempt, el, say, send, show, time } from "/desk.js";
import { asks, became, confirmed } from "/officer_questions.js";

const WORDS = {
  approve: ["Approve", "Approve: exactly this plan may run here."],
  leave: ["Refuse", "Refuse: no request of this campaign is answered. What has left already cannot be recalled."],
  pause: ["Pause", "Pause: no request is answered until the campaign goes on. This counts at once."],
  unpause: ["Go on", "Let the paused campaign go on, as it was approved."],
};
const BADGE = { waiting: "badge warn", approved: "badge good", paused: "badge", left: "badge bad" };
const STATUS = { waiting: "waits for a decision", approved: "approved", paused: "paused", left: "refused or left" };

export function campaigns(place, state) {
  const cards = new Map();
  const list = el("div");
  show(place, el("h2", {}, "Campaigns"), list);

  function update() {
    const found = state().campaigns;
    if (found.length === 0) {
      show(list, el("p", {}, "The centre has asked for no campaign yet. One that comes is shown here at once."));
      return;
    }
    if (cards.size === 0) list.replaceChildren();
    for (const campaign of found) {
      if (!cards.has(campaign.plan_hash)) cards.set(campaign.plan_hash, card(campaign.plan_hash, state));
      cards.get(campaign.plan_hash).update(campaign);
    }
    const order = [...found].sort((a, b) => (b.status === "waiting") - (a.status === "waiting"));
    if (order.some((campaign, at) => list.children[at] !== cards.get(campaign.plan_hash).root)) {
      const focused = document.activeElement;
      list.append(...order.map((campaign) => cards.get(campaign.plan_hash).root));
      focused?.focus();
    }
    const waits = found.filter((campaign) => campaign.status === "waiting");
    if (waits.length === 1 && found.length === 1 && !cards.get(waits[0].plan_hash).touched) cards.get(waits[0].plan_hash).open();
  }

  update();
  return { update };
}

function card(planHash, state) {
  const badge = el("span");
  const facts = el("span", { class: "soft" });
  const title = el("span", { class: "name" });
  const body = el("div", { class: "body" });
  const page = el("div", {}, el("p", { class: "soft" }, "Reading the plan …"));
  const decision = el("div");
  show(body, page, decision);
  const root = el("details", { class: "campaign" }, el("summary", {}, title, badge, facts), body);
  let shown = null;
  let campaign = null;
  let drawn = "";
  const made = { root, update, open: () => (root.open = true), touched: false };
  root.addEventListener("toggle", () => {
    made.touched = true;
    if (root.open) attempt(refresh);
  });

  async function refresh() {
    shown = await ask(`officer/campaigns/${planHash}`);
    show(page, rows(shown));
    drawn = "";
    draw();
  }

  function update(next) {
    const changed = campaign !== null && (next.status !== campaign.status || next.decided !== campaign.decided);
    campaign = next;
    title.textContent = campaign.name;
    badge.className = BADGE[campaign.status];
    badge.textContent = STATUS[campaign.status];
    const decided = campaign.by ? `decided by ${campaign.by}, ${time(campaign.decided)}` : `asked ${time(campaign.asked)}`;
    facts.textContent = `${planHash.slice(0, 12)} · ${decided}`;
    if (changed && root.open) attempt(refresh);
    else draw();
  }

  function draw() {
    if (shown === null) return;
    const question = state().questions.find((one) => one.plan_hash === planHash);
    const settled = state().settled.find((one) => one.plan_hash === planHash);
    const now = JSON.stringify([question, settled, shown.can, state().key]);
    if (now === drawn) return; // what somebody is typing stays
    drawn = now;
    show(decision, question ? asks(question) : [settled ? became(settled) : null, form()]);
  }

  function form() {
    const without = shown.tasks.map((task) => el("input", { type: "checkbox", value: task, id: `w-${planHash}-${task}` }));
    const more = el("input", { type: "text", id: `more-${planHash}`, placeholder: "vascularity>2" });
    const by = el("input", { type: "text", id: `by-${planHash}`, placeholder: state().account, autocomplete: "name" });
    const tasks =
      shown.tasks.length && shown.can.includes("approve")
        ? el(
            "fieldset",
            {},
            el("legend", {}, "Take no part in (the centre learns this, and it stays for the campaign)"),
            el("div", { class: "choices" }, without.map((box) => el("label", {}, box, box.value))),
            el("p", {}, el("label", { for: more.id }, "Or in thresholds, such as vascularity>2, with commas: "), more),
          )
        : null;
    const person = state().key
      ? null
      : el("p", {}, el("label", { for: by.id }, "Who decides (for the log): "), by);
    const wish = () => ({
      without: [...without.filter((box) => box.checked).map((box) => box.value), ...more.value.split(",")].map((text) => text.trim()).filter(Boolean),
      by: by.value,
    });
    const buttons = shown.can.map((what) =>
      el(
        "button",
        {
          type: "button",
          class: what === "approve" || what === "unpause" ? "main" : null,
          disabled: Boolean(shown.objection) && (what === "approve" || what === "unpause"),
          onclick: (event) => attempt(() => decide(what, wish(), event.target)),
        },
        what === "leave" && campaign.status !== "waiting" ? "Leave" : WORDS[what][0],
      ),
    );
    return el("fieldset", {}, el("legend", {}, "Decision"), tasks, person, el("div", { class: "row" }, buttons));
  }

  async function decide(what, { without, by }, button) {
    const atOnce = !state().key || what === "pause";
    if (atOnce && !(await confirmed(WORDS[what][1], WORDS[what][0], { danger: what === "leave" }))) return;
    button.disabled = true;
    say("Working …");
    try {
      const body = what === "approve" ? { decision: what, without, by } : { decision: what, by };
      const { said } = await send(`officer/campaigns/${planHash}`, body);
      say(said);
    } finally {
      button.disabled = false;
    }
  }

  return made;
}

function rows(page) {
  return el(
    "dl",
    {},
    page.rows
      .filter(({ title }) => title !== "Campaign")
      .flatMap(({ title, lines }) => [
        el("dt", {}, title),
        el("dd", { class: title === "Policy" && page.objection ? "refused" : null }, lines.length > 1 ? el("ul", { class: "plain" }, lines.map((line) => el("li", {}, line))) : lines),
      ]),
  );
}
