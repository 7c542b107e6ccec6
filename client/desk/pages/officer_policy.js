// The policy as a form; what a change means is shown before it is signed.

import { ask, attempt, el, say, send, show } from "/desk.js";
import { asks, became, confirmed } from "/officer_questions.js";

export function policy(place, state) {
  const asked = el("div");
  const body = el("div", {}, el("p", { class: "soft" }, "Reading the policy …"));
  show(place, el("h2", {}, "What the site permits"), asked, body);
  let drawn = "";

  function update() {
    const question = state().questions.find((one) => !one.plan_hash);
    const settled = state().settled.find((one) => !one.plan_hash);
    show(asked, question ? asks(question) : settled ? became(settled) : null);
    const now = JSON.stringify([question?.id, settled?.question, state().policy]);
    if (now !== drawn) attempt(() => draw(Boolean(question)));
    drawn = now;
  }

  async function draw(waits) {
    const { fields, unsigned } = await ask("officer/policy");
    const inputs = fields.map(field);
    const changes = el("div", { "aria-live": "polite" });
    const wanted = () => Object.fromEntries(inputs.map((one) => [one.name, one.value()]));
    const form = el(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          attempt(() => changed(wanted(), changes));
        },
        oninput: () => show(changes),
      },
      el("fieldset", { disabled: waits }, el("legend", {}, "Policy"), el("div", { class: "fields" }, inputs.map((one) => one.root)),
        el("button", { class: "main" }, "Show what would change")),
    );
    show(
      body,
      unsigned.length
        ? el("div", { class: "became bad" }, el("b", {}, "site.toml was changed since it was signed: "), list(unsigned))
        : null,
      form,
      changes,
    );
  }

  async function changed(values, where) {
    const { changes } = await send("officer/policy/changes", { values });
    const signs = state().signs_policy;
    if (changes.length === 0 && !state().policy.startsWith("Every request is refused")) {
      show(where, el("p", {}, "Nothing would change."));
      return;
    }
    const put = el(
      "button",
      { type: "button", class: "main", onclick: () => attempt(() => finish(values)) },
      signs ? "Ask the officer to sign this" : "Change the policy",
    );
    show(where, el("h3", {}, "What would change"), changes.length ? list(changes) : el("p", {}, "Nothing: it is signed as it stands in site.toml."), el("div", { class: "row" }, put));
    put.focus();
  }

  async function finish(values) {
    if (!state().signs_policy && !(await confirmed("The policy counts from the next request on.", "Change the policy"))) return;
    const { said } = await send("officer/policy", { values });
    say(said);
    if (!state().signs_policy) await draw(false);
  }

  update();
  return { update };
}

function list(changes) {
  return el(
    "ul",
    { class: "changes" },
    changes.map(({ sentence, permits }) =>
      el("li", {}, permits ? el("span", { class: permits === "more" ? "badge warn" : "badge good" }, `permits ${permits}`) : null, ` ${sentence}`),
    ),
  );
}

function field(facts) {
  const id = `policy-${facts.name}`;
  const help = el("small", { class: "soft", id: `${id}-help` }, facts.help);
  const described = { id, "aria-describedby": facts.help ? help.id : null };
  const titled = (input) => el("div", { class: "field" }, el("label", { for: id }, facts.title), input, facts.help ? help : null);
  if (facts.kind === "yes-no") {
    const box = el("input", { ...described, type: "checkbox", checked: facts.value });
    const root = el("div", { class: "field" }, el("label", { class: "tick" }, box, facts.title), facts.help ? help : null);
    return { name: facts.name, root, value: () => box.checked };
  }
  if (facts.kind === "choices") {
    const boxes = facts.choices.map((choice) => el("input", { type: "checkbox", value: choice, checked: facts.value.includes(choice) }));
    const root = el(
      "div",
      { class: "field" },
      el("fieldset", {}, el("legend", {}, facts.title), el("div", { class: "choices" }, boxes.map((box) => el("label", {}, box, box.value.replace("_", " ")))), facts.help ? help : null),
    );
    return { name: facts.name, root, value: () => boxes.filter((box) => box.checked).map((box) => box.value) };
  }
  if (facts.kind === "choice") {
    const input = el("select", described, facts.choices.map((choice) => el("option", { value: choice, selected: choice === facts.value }, choice.replaceAll("_", " "))));
    return { name: facts.name, root: titled(input), value: () => input.value };
  }
  if (facts.kind === "lines") {
    const input = el("textarea", { ...described, rows: 2 });
    input.value = facts.value.join("\n");
    return { name: facts.name, root: titled(input), value: () => input.value.split("\n").map((line) => line.trim()).filter(Boolean) };
  }
  const number = facts.kind === "number";
  const input = el("input", { ...described, type: number ? "number" : "text", step: number ? "any" : null, placeholder: facts.value === null || facts.value === "" ? facts.none : null });
  input.value = facts.value ?? "";
  const value = () => (number ? (input.value === "" ? null : Number(input.value)) : input.value);
  return { name: facts.name, root: titled(input), value };
}
