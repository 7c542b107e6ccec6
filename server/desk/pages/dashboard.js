// How campaigns go: a list of a centre's, or one run from its first round to its results.
import { attempt, byId, el, head, live, show } from "/desk.js";
import { addLines, badge, cards, KINDS, LiveTable, News, problem, since } from "/live.js";
import { chart, keys, mean } from "/chart.js";

const number = (value, digits = 3) => (typeof value === "number" ? value.toFixed(digits) : "");
const news = new News();

const notes = () => [
  el("p", { id: "news", class: "soft", role: "status", "aria-live": "polite" }),
  el("p", { id: "status", class: "status" }),
  el("p", { id: "problem", class: "error", hidden: true }),
];

function state(text) {
  return badge(text.replaceAll("_", " ").toLowerCase(), KINDS[text] ?? "");
}

// ---- all campaigns of a centre

function list() {
  const table = new LiveTable("Campaigns of this centre", ["campaign", "state", "how far", "sites", "submitted", "why"], { numbers: [3] });
  const up = el("p", { class: "soft" });
  const none = el("p", { hidden: true }, "No campaign yet: synofed run submit CONFIG");
  show(byId("main"), el("h1", {}, "Campaigns"), up, ...notes(), el("section", {}, table.element, none));
  live("campaigns", (told) => {
    if ("problem" in told) problem(told.problem);
    if ("up" in told) showUp(up, told.up);
    if (!told.campaigns) return;
    none.hidden = told.campaigns.length > 0;
    table.fill(
      told.campaigns.map((one) => [
        { text: one.campaign, href: `/?campaign=${encodeURIComponent(one.campaign)}` },
        { text: one.state.replaceAll("_", " ").toLowerCase(), kind: KINDS[one.state] ?? "" },
        one.progress,
        one.sites,
        { time: one.submitted },
        one.reason,
      ]),
    );
    for (const one of told.campaigns) news.tell(one.campaign, one.state.replaceAll("_", " ").toLowerCase());
  });
}

function showUp(place, up) {
  place.textContent = up ? "The centre is up." : "The centre is down: synofed federation up starts it. Nobody is connected.";
  news.tell("The centre", up ? "up" : "down");
}

// ---- one run

/** The curves of a run, as they grow. */
class Curves {
  constructor() {
    this.systems = new Map();
    this.stages = new Set();
  }

  add({ afresh, curves }) {
    if (afresh) {
      this.systems.clear();
      this.stages.clear();
    }
    for (const { system, stage, group, points } of curves) {
      this.stages.add(stage);
      const key = `${system}\n${stage}`;
      const groups = this.systems.get(key) ?? new Map();
      this.systems.set(key, groups);
      groups.set(group, [...(groups.get(group) ?? []), ...points]);
    }
  }

  /** Lines to draw of a stage: each of the federation's groups faint, means bold; `at`: 1 for losses, 2 for AUCs. */
  lines(stage, at) {
    const found = [];
    const alone = [];
    for (const [key, groups] of this.systems) {
      const [system, of] = key.split("\n");
      if (of !== stage) continue;
      const curves = [...groups.values()].map((points) => points.filter((one) => one[at] !== null && one[at] !== undefined).map((one) => [one[0], one[at]]));
      const drawn = curves.filter((points) => points.length > 0);
      if (drawn.length === 0) continue;
      if (system.startsWith("alone:")) alone.push(mean(drawn));
      else if (system === "federated") {
        if (drawn.length > 1) found.push(...drawn.map((points) => ({ kind: "federated", faint: true, label: "", points })));
        found.push({ kind: "federated", label: drawn.length > 1 ? `federated, mean of ${drawn.length} groups` : "federated", points: mean(drawn) });
      } else found.push({ kind: system, label: "all data in one place", points: mean(drawn) });
    }
    if (alone.length > 0) found.push({ kind: "alone", label: `sites alone, mean of ${alone.length}`, points: mean(alone) });
    return found;
  }
}

class RunPage {
  constructor(name, { back }) {
    this.name = name;
    this.curves = new Curves();
    this.chosen = null;
    this.place = {
      title: el("h1", {}, name),
      about: el("p", { class: "soft" }),
      up: el("p", { class: "soft", hidden: true }),
      cards: el("div", { class: "cards" }),
      bar: el("progress", { max: 1, value: 0, "aria-label": "Rounds of this stage that are done", hidden: true }),
      why: el("p", { hidden: true }),
      report: el("p", { hidden: true }, el("a", { href: `/api/campaigns/${encodeURIComponent(name)}/report`, target: "_blank", rel: "noopener" }, "Open the report")),
      scores: el("div", { class: "cards scores" }),
      tables: el("div"),
      results: el("section", { hidden: true, "aria-label": "Results" }),
      charts: el("div", { class: "charts" }),
      learning: el("section", { hidden: true }),
      stage: el("select", { id: "stage", onchange: (event) => this.choose(event.target.value) }),
      log: el("pre", { class: "log", tabindex: "0", "aria-label": "The last lines of log.txt" }),
      logs: el("section", { hidden: true }),
    };
    const place = this.place;
    this.sites = null;
    this.sitesAt = el("section", {}, el("h2", {}, "Sites"));
    this.systems = new LiveTable("What is being trained", ["system", "stage", "groups", "rounds done", "of"], { numbers: [2, 3, 4] });
    this.groups = new LiveTable("The last round of each group of the stage", ["group", "round", "loss", "AUC", "seconds", "ended", "without"], { numbers: [1, 2, 3, 4] });
    this.networks = new LiveTable("Networks of the ensemble", ["network", "best round", "AUC", "threshold"], { numbers: [1, 2, 3] });
    this.networksAt = el("details", { hidden: true }, el("summary", {}, "Networks"), this.networks.element);
    place.results.append(el("h2", {}, "Results"), place.report, place.scores, place.tables, this.networksAt);
    place.learning.append(
      el("h2", {}, "Learning"),
      el("p", { class: "row" }, el("label", { for: "stage" }, "Stage"), place.stage),
      place.charts,
      this.groups.element,
    );
    place.logs.append(el("h2", {}, "Log"), place.log);
    show(
      byId("main"),
      back ? el("p", { class: "back" }, el("a", { href: "/" }, "All campaigns")) : null,
      place.title, place.about, place.up, ...notes(), place.why, place.bar, place.cards,
      place.results, this.sitesAt, el("section", { id: "trained" }, el("h2", {}, "Training"), this.systems.element), place.learning, place.logs,
    );
  }

  watch() {
    live(`campaigns/${encodeURIComponent(this.name)}`, (told) => {
      if ("problem" in told) problem(told.problem);
      if (told.facts) this.facts(told.facts);
      if ("report" in told) this.place.report.hidden = !told.report;
      if (told.results) this.ended(told.results);
      if (told.groups) this.showGroups(told.groups);
      if (told.rounds) this.learn(told.rounds);
      if (told.log) {
        this.place.logs.hidden = false;
        addLines(this.place.log, told.log.lines, told.log);
      }
      this.place.results.hidden = this.place.report.hidden && !this.scored;
    });
  }

  facts(facts) {
    show(this.place.title, facts.campaign, state(facts.state));
    news.tell(facts.campaign, facts.state.replaceAll("_", " ").toLowerCase());
    const why = [facts.reason, facts.waits ? `The centre waits: ${facts.waits}` : ""].filter(Boolean).join(". ");
    this.place.why.hidden = !why;
    this.place.why.textContent = why;
    if (facts.waits !== undefined) this.campaign(facts);
    else this.study(facts);
  }

  campaign(facts) {
    show(this.place.about, facts.submitted ? ["Submitted ", since(facts.submitted)] : "");
    this.place.up.hidden = false;
    showUp(this.place.up, facts.up);
    this.progress(facts.done, facts.total);
    const took = Object.values(facts.sites).filter((one) => one.used > 0).length;
    cards(this.place.cards, [
      [facts.total ? `${facts.done} of ${facts.total}` : "none yet", facts.stage ? `rounds of stage ${facts.stage}, ${facts.networks} networks` : "rounds"],
      ...(facts.rounds_per_hour ? [[facts.rounds_per_hour.toFixed(0), "rounds an hour"]] : []),
      ...(facts.eta ? [[facts.eta, "to the end of the stage"]] : []),
      [`${took} of ${facts.asked.length}`, "sites whose updates were used"],
    ]);
    byId("trained").hidden = true;
    const names = new Set([...Object.keys(facts.sites), ...facts.asked, ...facts.late, ...facts.judges, ...Object.keys(facts.evaluation)]);
    this.sites ??= this.table("Where each site stands", ["site", "last seen", "state", "waits for", "rounds used", "last used", "missed", "networks", "tables"], [4, 6]);
    this.sites.fill(
      [...names].map((name) => {
        const site = facts.sites[name] ?? {};
        const judges = facts.judges.includes(name);
        const seen = facts.last_seen[name];
        const stands = site.state ?? (judges ? "judges" : "expected");
        news.tell(name, site.reason ? `${stands}, ${site.reason}` : stands);
        return [
          { text: name, small: judges ? "trains nothing" : facts.late.includes(name) ? "admitted later" : "" },
          seen?.online ? "connected" : seen?.last_seen ? { time: seen.last_seen } : "never",
          { text: stands, kind: KINDS[stands] ?? "" },
          site.reason ?? "",
          site.used ?? "",
          site.last_used ? { time: site.last_used } : "never",
          facts.missing[name] ?? "",
          facts.ensemble[name] ?? "",
          facts.evaluation[name] ?? "",
        ];
      }),
    );
  }

  study(facts) {
    show(
      this.place.about,
      "Simulated run", facts.engine ? `, ${facts.engine}` : "", facts.seed === null ? "" : `, seed ${facts.seed}`,
      facts.submitted ? [", began ", since(facts.submitted)] : "", facts.ended ? [", ended ", since(facts.ended)] : "", ". ",
      facts.privacy_statement ?? "",
    );
    const federated = facts.systems.find((one) => one.system === "federated");
    this.progress(federated?.done ?? 0, federated?.total ?? 0);
    cards(this.place.cards, [
      [federated ? `${federated.done} of ${federated.total}` : "none yet", federated ? `federated rounds of stage ${federated.stage}` : "rounds"],
      ...(facts.rounds_per_hour ? [[facts.rounds_per_hour.toFixed(0), "rounds an hour, of all systems"]] : []),
      ...(facts.eta ? [[facts.eta, "to the end of what is being trained now"]] : []),
      [`${Object.keys(facts.sites).length}`, "sites"],
    ]);
    this.systems.fill(facts.systems.map((one) => [one.system, one.stage, one.groups, one.done, one.total]));
    byId("trained").hidden = facts.systems.length < 2;
    this.sites ??= this.table("Sites of this run", ["site", "usable exams", "quarantined", "rounds used", "last used", "missed"], [2, 3, 5]);
    this.sites.fill(
      Object.entries(facts.sites).map(([name, site]) => [
        name,
        Object.entries(site.usable).map(([measurement, count]) => `${measurement} ${count}`).join(", "),
        site.quarantined ?? "",
        site.used,
        site.last_used ? { time: site.last_used } : "never",
        site.missing ?? "",
      ]),
    );
    this.sitesAt.hidden = Object.keys(facts.sites).length === 0;
  }

  table(caption, columns, numbers) {
    const made = new LiveTable(caption, columns, { numbers });
    this.sitesAt.append(made.element);
    return made;
  }

  progress(done, total) {
    this.place.bar.hidden = total === 0;
    this.place.bar.max = total || 1;
    this.place.bar.value = done;
  }

  showGroups(groups) {
    this.groups.fill(
      groups.map((one) => [
        one.group, one.round, number(one.loss), number(one.auc), number(one.seconds, 1), { time: one.time },
        Object.entries(one.dropped ?? {}).map(([site, reason]) => `${site}: ${reason}`).join("; "),
      ]),
    );
  }

  learn(rounds) {
    this.curves.add(rounds);
    const stages = [...this.curves.stages];
    if ([...this.place.stage.options].map((one) => one.value).join("\n") !== stages.join("\n")) {
      show(this.place.stage, stages.map((stage) => el("option", { value: stage }, stage)));
    }
    if (!stages.includes(this.chosen)) this.chosen = null;
    this.place.stage.value = this.chosen ?? stages.at(-1) ?? "";
    this.place.learning.hidden = stages.length === 0;
    this.draw();
  }

  choose(stage) {
    this.chosen = stage === [...this.curves.stages].at(-1) ? null : stage; // the newest: goes on with the run
    this.draw();
  }

  draw() {
    const stage = this.place.stage.value;
    const losses = this.curves.lines(stage, 1);
    const aucs = this.curves.lines(stage, 2);
    show(this.place.charts, chart("Training loss", losses), chart("Validation AUC", aucs));
    const legend = keys(losses.length ? losses : aucs);
    this.legend?.remove();
    this.place.charts.after(legend);
    this.legend = legend;
  }

  ended(results) {
    this.scored = results.cards.length + results.tables.length + results.networks.length > 0;
    cards(this.place.scores, results.cards.map((one) => [one.value, one.label, one.small]));
    show(
      this.place.tables,
      results.tables.map(({ title, header, rows }) => {
        const table = new LiveTable(title, header, { numbers: header.map((_, at) => at).slice(1) });
        table.fill(rows.map(([label, ...cells]) => [label, ...cells.map(([text, small]) => ({ text, small }))]));
        return table.element;
      }),
    );
    this.networks.fill(results.networks.map((one) => [one.name, one.best_round ?? "", number(one.auc), number(one.threshold)]));
    this.networksAt.hidden = results.networks.length === 0;
  }
}

await attempt(async () => {
  const desk = await head("Campaigns");
  const name = desk.only ?? new URLSearchParams(location.search).get("campaign");
  if (name === null) list();
  else new RunPage(name, { back: desk.only === null }).watch();
});
