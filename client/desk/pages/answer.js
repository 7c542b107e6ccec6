// What the ensemble says of an exam: scores with each model's votes, sets of grades, heatmaps.
import { el } from "/desk.js";

const words = (name) => name.replaceAll("_", " ");
const share = (value) => (value === null || value === undefined ? "" : `${Math.round(100 * value)} %`);

/** The ensemble's answer; `heatmap(name)` is a picture's address. */
export function answerView(answer, heatmap) {
  const badges = [
    answer.machine_known === true ? el("span", { class: "badge good" }, "machine seen in training") : null,
    answer.machine_known === false ? el("span", { class: "badge bad" }, "machine not seen in training") : null,
    answer.machine_known === null ? el("span", { class: "badge" }, "not known whether this machine was in training") : null,
    answer.contested ? el("span", { class: "badge warn" }, "contested: the networks are divided") : null,
    answer.tie ? el("span", { class: "badge warn" }, "tie") : null,
    el("span", { class: "badge warn" }, "research use only"),
  ];
  const rows = Object.entries(answer.measurements).map(([name, found]) =>
    el("tr", {},
      el("th", { scope: "row" }, words(name)),
      el("td", { class: "score" }, String(found.decision)),
      el("td", {}, votes(found.votes)),
      el("td", {}, found.set ? found.set.join(", ") : "-"),
      el("td", {}, found.above ? found.above.map((p, cut) => `>${cut}: ${share(p)}`).join("  ") : "-")));
  return el("section", { class: "answer", "aria-label": "The ensemble's answer" },
    el("h2", {}, `Ensemble ${answer.ensemble}`, badges),
    answer.heatmaps.length
      ? el("div", { class: "panes" }, answer.heatmaps.map((name) =>
          el("figure", { class: "pane" }, el("img", { src: heatmap(name), alt: `Heatmap of ${name}`, class: "heatmap" }),
            el("figcaption", {}, `${name}: ${answer.explained}`))))
      : el("p", { class: "soft" }, answer.explained),
    el("div", { class: "scroll" }, el("table", {},
      el("caption", { class: "hidden-text" }, "Scores"),
      el("thead", {}, el("tr", {}, ["", "score", "votes of the models", "set of grades", "probability"].map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, rows,
        answer.combined === null ? null : el("tr", {}, el("th", { scope: "row" }, "combined"), el("td", { class: "score" }, String(answer.combined)), el("td", {}), el("td", {}), el("td", {}))))),
    el("p", { class: "soft" }, answer.notice[0]));
}

/** How many models gave which grade. */
function votes(given) {
  const counts = new Map();
  for (const vote of given) counts.set(vote, (counts.get(vote) ?? 0) + 1);
  return [...counts].sort((a, b) => a[0] - b[0]).map(([grade, count]) => `${grade} × ${count}`).join("  ");
}
