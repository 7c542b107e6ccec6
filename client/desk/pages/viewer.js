// An exam's pictures side by side: linked zoom, pan, window and level; regions, a ruler, clips frame by frame.
import { el, say, show } from "/desk.js";

const SVG = "http://www.w3.org/2000/svg";
const SMALLEST = 16;
const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];

const svg = (tag, attributes) => {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Pictures with one view: what is done to one is done to all. */
export class Viewer {
  /**
   * @param images of the exam, as the desk describes them.
   * @param source of a picture: (name, frame) => its address.
   * @param draw told of a region: (name, [x, y, width, height] or null); null: regions are not to be changed.
   */
  constructor(images, source, draw) {
    this.view = { zoom: 1, x: 0.5, y: 0.5, brightness: 1, contrast: 1 };
    this.overlays = true;
    this.tool = "window";
    this.panes = images.map((image) => new Pane(this, image, source, draw));
    this.element = el("div", { class: "panes" }, this.panes.map((pane) => pane.element));
    this.observer = new ResizeObserver(() => this.render());
    for (const pane of this.panes) this.observer.observe(pane.stage);
  }

  close() {
    this.observer.disconnect();
    for (const pane of this.panes) pane.stop();
  }

  change(view) {
    Object.assign(this.view, view);
    this.view.zoom = clamp(this.view.zoom, 0.5, 32);
    this.view.x = clamp(this.view.x, 0, 1);
    this.view.y = clamp(this.view.y, 0, 1);
    this.view.brightness = clamp(this.view.brightness, 0.2, 5);
    this.view.contrast = clamp(this.view.contrast, 0.2, 5);
    this.render();
  }

  reset() {
    this.change({ zoom: 1, x: 0.5, y: 0.5, brightness: 1, contrast: 1 });
  }

  /** One pixel of the machine is one of the screen. */
  pixels() {
    this.change({ zoom: 1 / (this.panes[0].fit() * window.devicePixelRatio) });
  }

  use(tool) {
    this.tool = tool;
    this.render();
  }

  switchOverlays() {
    this.overlays = !this.overlays;
    this.render();
  }

  play() {
    for (const pane of this.panes) pane.play();
  }

  step(frames) {
    for (const pane of this.panes) pane.step(frames);
  }

  render() {
    for (const pane of this.panes) pane.render();
  }
}

class Pane {
  constructor(viewer, image, source, draw) {
    Object.assign(this, { viewer, image, source, draw, frame: 1, timer: null, line: null });
    this.region = image.region;
    this.picture = el("img", { src: source(image.name, 1), alt: `${image.name} picture`, draggable: "false" });
    this.overlay = svg("svg", { viewBox: `0 0 ${image.width} ${image.height}`, "aria-hidden": "true" });
    this.inner = el("div", { class: "inner" }, this.picture, this.overlay);
    this.stage = el("div", {
      class: "stage", tabindex: "0", role: "group",
      "aria-label": `${image.name}, ${image.width} x ${image.height} pixels. Plus and minus zoom, arrows move.`,
    }, this.inner);
    this.bounds = el("div", { class: "region-fields" });
    this.frames = el("span", { class: "soft" });
    this.note = el("p", { class: "soft drawn" });
    this.element = el("figure", { class: "pane" },
      el("figcaption", { class: "row" }, el("b", {}, image.name), this.frames), this.stage, this.bounds, this.note);
    this.listen();
    this.fields();
  }

  fit() {
    const box = this.stage.getBoundingClientRect();
    return Math.min(box.width / this.image.width, box.height / this.image.height) || 1;
  }

  render() {
    const { image, viewer, stage } = this;
    const { zoom, x, y, brightness, contrast } = viewer.view;
    const scale = this.fit() * zoom;
    const left = stage.clientWidth / 2 - x * image.width * scale;
    const top = stage.clientHeight / 2 - y * image.height * scale;
    this.inner.style.width = `${image.width}px`;
    this.inner.style.height = `${image.height}px`;
    this.inner.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    this.picture.style.filter = brightness === 1 && contrast === 1 ? "" : `brightness(${brightness}) contrast(${contrast})`;
    this.picture.style.imageRendering = scale > 2 ? "pixelated" : "auto";
    stage.dataset.tool = viewer.tool;
    this.frames.textContent = image.frames > 1 ? `frame ${this.frame} of ${image.frames}` : "";
    this.renderOverlay(scale);
  }

  renderOverlay(scale) {
    const parts = [];
    const width = 2 / scale;
    const rectangle = (box, style) =>
      svg("rect", { x: box[0], y: box[1], width: box[2], height: box[3], class: style, "stroke-width": width });
    if (this.viewer.overlays) {
      const editing = this.viewer.tool === "region" && this.draw;
      if (!this.region && editing && this.image.suggested) parts.push(rectangle(this.image.suggested, "suggested"));
      if (this.region) parts.push(rectangle(this.region, "region"));
      if (this.region && editing) {
        const size = 9 / scale;
        for (const [x, y] of handlePlaces(this.region)) {
          parts.push(svg("rect", { x: x - size / 2, y: y - size / 2, width: size, height: size, class: "handle" }));
        }
      }
    }
    if (this.line) {
      const [x1, y1, x2, y2] = this.line;
      parts.push(svg("line", { x1, y1, x2, y2, class: "ruler", "stroke-width": width }));
      const text = svg("text", { x: x2, y: y2 - 6 / scale, class: "ruler", "font-size": 14 / scale });
      text.textContent = this.length();
      parts.push(text);
    }
    this.overlay.replaceChildren(...parts);
  }

  /** Of the ruler's line: in mm where the spacing is known. */
  length() {
    const [x1, y1, x2, y2] = this.line;
    const px = Math.hypot(x2 - x1, y2 - y1);
    return this.image.spacing_mm ? `${(px * this.image.spacing_mm).toFixed(1)} mm` : `${px.toFixed(0)} px (no scale)`;
  }

  /** Where on the picture an event is, in its pixels. */
  at(event) {
    const box = this.inner.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.image.width,
      ((event.clientY - box.top) / box.height) * this.image.height,
    ];
  }

  listen() {
    const { stage, viewer } = this;
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (this.image.frames > 1 && !event.shiftKey) return viewer.step(Math.sign(event.deltaY));
      viewer.change({ zoom: viewer.view.zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15) });
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => this.drag(event));
    stage.addEventListener("keydown", (event) => this.key(event));
  }

  drag(event) {
    const { stage, viewer } = this;
    const start = { ...viewer.view };
    const from = this.at(event);
    const scale = this.fit() * start.zoom;
    const touched = event.pointerType === "touch";
    const own = event.button === 0 && (viewer.tool === "region" ? this.draw && this.editing(from, scale) : null);
    const move = (next) => {
      const dx = next.clientX - event.clientX, dy = next.clientY - event.clientY;
      if (own) this.edit(own, this.at(next));
      else if (event.button === 0 && viewer.tool === "ruler") { this.line = [...from, ...this.at(next)]; this.render(); }
      else if (event.button === 1 || (touched && viewer.tool === "window")) {
        viewer.change({ x: start.x - dx / (scale * this.image.width), y: start.y - dy / (scale * this.image.height) });
      } else if (event.button === 2) viewer.change({ zoom: start.zoom * Math.exp(-dy / 150) });
      else viewer.change({ brightness: start.brightness * Math.exp(-dy / 250), contrast: start.contrast * Math.exp(dx / 250) });
    };
    const end = () => {
      stage.removeEventListener("pointermove", move);
      if (own) this.changed();
    };
    stage.setPointerCapture(event.pointerId);
    stage.addEventListener("pointermove", move);
    stage.addEventListener("pointerup", end, { once: true });
    stage.addEventListener("pointercancel", end, { once: true });
  }

  /** What a drag that begins here does to the region: a handle, the whole, or a new one. */
  editing([x, y], scale) {
    if (this.region) {
      const near = 10 / scale;
      const index = handlePlaces(this.region).findIndex(([hx, hy]) => Math.abs(hx - x) < near && Math.abs(hy - y) < near);
      if (index >= 0) return { how: HANDLES[index], region: [...this.region], x, y };
      const [left, top, width, height] = this.region;
      if (x > left && x < left + width && y > top && y < top + height) return { how: "move", region: [...this.region], x, y };
    }
    return { how: "new", region: [x, y, 0, 0], x, y };
  }

  edit({ how, region, x, y }, [nextX, nextY]) {
    let [left, top, width, height] = region;
    let right = left + width, bottom = top + height;
    const dx = nextX - x, dy = nextY - y;
    if (how === "new") {
      [left, right] = [Math.min(x, nextX), Math.max(x, nextX)];
      [top, bottom] = [Math.min(y, nextY), Math.max(y, nextY)];
    } else if (how === "move") {
      const moveX = clamp(dx, -left, this.image.width - right), moveY = clamp(dy, -top, this.image.height - bottom);
      left += moveX; right += moveX; top += moveY; bottom += moveY;
    } else {
      if (how.includes("w")) left = Math.min(left + dx, right - SMALLEST);
      if (how.includes("e")) right = Math.max(right + dx, left + SMALLEST);
      if (how.includes("n")) top = Math.min(top + dy, bottom - SMALLEST);
      if (how.includes("s")) bottom = Math.max(bottom + dy, top + SMALLEST);
    }
    this.place([left, top, right - left, bottom - top]);
  }

  /** Set the region, inside the picture and not too small; it is kept by `changed`. */
  place([x, y, width, height]) {
    const left = clamp(Math.round(x), 0, this.image.width - SMALLEST);
    const top = clamp(Math.round(y), 0, this.image.height - SMALLEST);
    this.region = [
      left, top,
      clamp(Math.round(width), SMALLEST, this.image.width - left),
      clamp(Math.round(height), SMALLEST, this.image.height - top),
    ];
    this.fields();
    this.render();
  }

  changed() {
    clearTimeout(this.saving);
    this.saving = setTimeout(() => { this.saving = null; this.draw(this.image.name, this.region); }, 250);
  }

  key(event) {
    const { viewer } = this;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const arrow = arrows[event.key];
    if (arrow && viewer.tool === "region" && this.draw && this.region) {
      const [x, y, width, height] = this.region;
      const [dx, dy] = arrow.map((one) => one * (event.altKey ? 10 : 1));
      this.place(event.shiftKey ? [x, y, width + dx, height + dy] : [x + dx, y + dy, width, height]);
      this.changed();
    } else if (arrow) {
      const step = 0.05 / viewer.view.zoom;
      viewer.change({ x: viewer.view.x + arrow[0] * step, y: viewer.view.y + arrow[1] * step });
    } else if (event.key === "+" || event.key === "=") viewer.change({ zoom: viewer.view.zoom * 1.25 });
    else if (event.key === "-") viewer.change({ zoom: viewer.view.zoom / 1.25 });
    else if (event.key === "[") viewer.change({ brightness: viewer.view.brightness / 1.1 });
    else if (event.key === "]") viewer.change({ brightness: viewer.view.brightness * 1.1 });
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Number fields of the region, for who draws without a mouse. */
  fields() {
    if (!this.draw) return;
    const names = ["x", "y", "width", "height"];
    if (!this.inputs) {
      this.inputs = names.map((name, index) => el("input", {
        type: "number", min: "0", step: "1", "aria-label": `${this.image.name} region ${name} in pixels`,
        onchange: () => {
          const values = this.inputs.map((input) => Number(input.value) || 0);
          if (!this.region && index < 3) { this.pending = values; return; }
          this.place(values);
          this.changed();
        },
      }));
      show(this.bounds,
        names.map((name, index) => el("label", {}, name, this.inputs[index])),
        el("button", { type: "button", onclick: () => this.suggest() }, "Suggest"),
        el("button", { type: "button", onclick: () => this.takeAway() }, "As imported"));
    }
    this.inputs.forEach((input, index) => { input.value = this.region ? String(this.region[index]) : ""; });
    this.note.textContent = this.image.drawn_by
      ? `Region by ${this.image.drawn_by}, ${new Date(this.image.drawn).toLocaleString()}`
      : this.region ? "Region as imported" : "No region: the whole picture is read";
  }

  suggest() {
    if (!this.image.suggested) { this.note.textContent = "No other picture of this machine and size has a region yet."; return; }
    this.place(this.image.suggested);
    this.changed();
  }

  takeAway() {
    this.draw(this.image.name, null);
  }

  /** What the desk keeps of this image now. */
  kept(image) {
    this.image = image;
    if (!this.saving) this.region = image.region; // else somebody draws on already
    this.fields();
    this.render();
  }

  step(frames) {
    if (this.image.frames < 2) return;
    this.frame = ((this.frame - 1 + frames + this.image.frames) % this.image.frames) + 1;
    this.picture.src = this.source(this.image.name, this.frame);
    this.render();
  }

  play() {
    if (this.timer) return this.stop();
    if (this.image.frames > 1) this.timer = setInterval(() => this.step(1), 80);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
  }
}

function handlePlaces([x, y, width, height]) {
  const mx = x + width / 2, my = y + height / 2, r = x + width, b = y + height;
  return [[x, y], [mx, y], [r, y], [r, my], [r, b], [mx, b], [x, b], [x, my]];
}

/** Buttons for what the keys do; `open` holds the viewer, and gets the buttons of its tools. */
export function toolbar(viewer, open, images, help) {
  const tool = (name, text) => {
    const button = el("button", { type: "button", "aria-pressed": String(viewer.tool === name), onclick: () => useTool(open, name) }, text);
    open.tools[name] = button;
    return button;
  };
  const act = (text, work) => el("button", { type: "button", onclick: work }, text);
  return el("div", { class: "row toolbar", role: "toolbar", "aria-label": "Pictures" },
    tool("window", "Window"), viewer.panes[0].draw ? tool("region", "Region") : null, tool("ruler", "Ruler"),
    act("+", () => viewer.change({ zoom: viewer.view.zoom * 1.25 })), act("−", () => viewer.change({ zoom: viewer.view.zoom / 1.25 })),
    act("1:1", () => viewer.pixels()), act("Reset", () => viewer.reset()), act("Overlay", () => viewer.switchOverlays()),
    images.some((image) => image.frames > 1) ? [act("Play", () => viewer.play()), act("‹", () => viewer.step(-1)), act("›", () => viewer.step(1))] : [],
    act("Keys", help));
}

export function useTool(open, name) {
  open.viewer.use(name);
  for (const [other, button] of Object.entries(open.tools)) button.setAttribute("aria-pressed", String(other === name));
  open.viewer.element.classList.toggle("editing", name === "region");
  say(name === "region" ? "Draw, move or resize the region; arrow keys move it, Shift resizes. It is kept at once." : "");
}
