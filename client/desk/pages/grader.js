// Grades by click and by key; combinations that cannot be are not offered.
import { el } from "/desk.js";

const LETTERS = ["q", "w", "e", "r"];
const words = (name) => name.replaceAll("_", " ");

export class Grader {
  /**
   * @param scheme `measurements`: name -> number of grades; `combinations` that can be, in their order.
   * @param changed told when somebody chose a grade.
   */
  constructor(scheme, changed) {
    this.names = Object.keys(scheme.measurements);
    this.combinations = scheme.combinations;
    this.grades = {};
    this.inputs = {};
    this.changed = changed;
    this.element = el("div", { class: "grades" }, this.names.map((name, place) => this.field(name, scheme.measurements[name], place)));
  }

  field(name, count, place) {
    this.inputs[name] = [];
    const key = (grade) => (place === 0 ? `${grade}` : place === 1 ? LETTERS[grade] ?? "" : "");
    return el("fieldset", {},
      el("legend", {}, words(name)),
      el("div", { class: "choices" }, Array.from({ length: count }, (_, grade) => {
        const input = el("input", {
          type: "radio", name: `grade-${name}`, value: String(grade), onchange: () => this.choose(name, grade),
        });
        this.inputs[name].push(input);
        return el("label", {}, input, el("b", {}, String(grade)), key(grade) ? el("kbd", { "aria-hidden": "true" }, key(grade)) : null);
      })));
  }

  /** Choose a grade by name; false where it cannot be with the others. */
  choose(name, grade) {
    if (!this.possible(name, grade)) return false;
    this.grades[name] = grade;
    this.render();
    this.changed();
    return true;
  }

  set(grades) {
    this.grades = { ...grades };
    this.render();
  }

  get whole() {
    return this.names.every((name) => name in this.grades);
  }

  possible(name, grade) {
    return this.combinations.some((combination) =>
      this.names.every((other, place) =>
        other === name ? combination[place] === grade : !(other in this.grades) || this.grades[other] === combination[place]));
  }

  render() {
    for (const name of this.names) {
      this.inputs[name].forEach((input, grade) => {
        input.checked = this.grades[name] === grade;
        input.disabled = !this.possible(name, grade);
      });
    }
  }

  lock() {
    for (const inputs of Object.values(this.inputs)) for (const input of inputs) input.disabled = true;
  }

  /** Whether a key was one of ours; what cannot be is said by `refused`. */
  key(pressed, refused) {
    const digit = /^[0-9]$/.test(pressed) ? [0, Number(pressed)] : null;
    const shifted = /^Shift\+([0-9])$/.exec(pressed);
    const letter = LETTERS.indexOf(pressed);
    const found = digit ?? (shifted ? [1, Number(shifted[1])] : letter >= 0 ? [1, letter] : null);
    if (!found || found[0] >= this.names.length || found[1] >= this.inputs[this.names[found[0]]].length) return false;
    const name = this.names[found[0]];
    if (this.grades[name] === found[1]) return true;
    if (!this.choose(name, found[1])) {
      const others = this.names.filter((other) => other !== name && other in this.grades);
      refused(`${words(name)} ${found[1]} cannot be with ${others.map((other) => `${words(other)} ${this.grades[other]}`).join(" and ")}.`);
    }
    return true;
  }
}
