// Curves over rounds: a small drawing made of elements, with a text that says the same.
import { el } from "/desk.js";

const WIDTH = 520;
const HEIGHT = 240;
const LEFT = 46;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 34;

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Round numbers that cover a range, at most six of them. */
function ticks(low, high, { whole = false } = {}) {
  const rough = (high - low) / 6 || 1;
  const size = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((factor) => factor * size).find((one) => one >= rough);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) found.push(at * step);
  return found;
}

const short = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : `${Number(value.toPrecision(3))}`);

/** Mean over curves, round by round. */
export function mean(curves) {
  const rounds = new Map();
  for (const [number, value] of curves.flat()) rounds.set(number, [...(rounds.get(number) ?? []), value]);
  return [...rounds].sort((one, other) => one[0] - other[0]).map(([n, values]) => [n, values.reduce((a, b) => a + b) / values.length]);
}

const said = ({ label, points }) => {
  const [first, last] = [points[0], points.at(-1)];
  return `${label}: ${short(first[1])} in round ${first[0]}${points.length > 1 ? `, ${short(last[1])} in round ${last[0]}` : ""}`;
};

/**
 * A figure of curves; null where there is nothing to draw.
 * lines: { kind: "federated" | "centralised" | "alone", label, faint, points: [[round, value], ...] }
 */
export function chart(title, lines) {
  const points = lines.flatMap((line) => line.points);
  if (points.length === 0) return null;
  const rounds = points.map((point) => point[0]);
  const values = points.map((point) => point[1]);
  const [left, right] = [Math.min(...rounds), Math.max(...rounds, Math.min(...rounds) + 1)];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  [low, high] = [low - room, high + room];
  const x = (number) => LEFT + ((number - left) / (right - left)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const bold = lines.filter((line) => !line.faint);
  const drawing = svg("svg", {
    class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${bold.map(said).join("; ")}`,
  });
  for (const value of ticks(low, high)) {
    drawing.append(
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  for (const number of ticks(left, right, { whole: true })) {
    drawing.append(svg("text", { x: x(number), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, `${number}`));
  }
  drawing.append(svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, "round"));
  for (const line of [...lines].sort((one, other) => Number(other.faint) - Number(one.faint))) {
    const path = line.points.map(([number, value]) => `${x(number).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    drawing.append(svg("polyline", { class: `curve ${line.kind}${line.faint ? " faint" : ""}`, points: path }));
    if (line.points.length === 1 && line.kind === "federated") {
      drawing.append(svg("circle", { cx: x(line.points[0][0]), cy: y(line.points[0][1]), r: 3 }));
    }
  }
  return el("figure", {}, el("h3", {}, title), drawing);
}

/** What the curves of a chart are. */
export function keys(lines) {
  const sample = (kind) => svg("svg", { viewBox: "0 0 32 10", "aria-hidden": "true" }, svg("line", { class: `key ${kind}`, x1: 1, x2: 31, y1: 5, y2: 5 }));
  return el("ul", { class: "keys" }, lines.filter((line) => !line.faint).map((line) => el("li", {}, sample(line.kind), line.label)));
}
