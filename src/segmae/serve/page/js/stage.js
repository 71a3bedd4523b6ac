// The picture's window: keeps what is drawn, draws it once a frame, and turns pointers and keys into pans, zooms and strokes.

import { draw } from "./draw.js";
import { Viewport } from "./viewport.js";

const ZOOM = 1.25; // a step of a button or key
const STEP = 8; // CSS pixels that an arrow key moves the tool's pointer; five times that with Shift

/**
 * A tool has start(point), move(point), end() and cancel(), all in the photograph's pixels, a `radius` (0: a cross) and
 * `isActive`, true from start to end or cancel.
 */
export class Stage {
  constructor(root, canvas) {
    this.root = root;
    this.canvas = canvas;
    this.viewport = new Viewport();
    this.scene = { picture: null, shown: true, opacity: 0, path: null, map: null, mask: null, swipe: null, line: null, pointer: null };
    this.tool = null;
    this.asked = false;
    this.pointers = new Map(); // of the fingers or the mouse, by id
    this.panning = false; // while the space bar is held
    new ResizeObserver(() => this.#resize()).observe(root);
    this.#listen();
  }

  setPicture(picture) {
    this.scene.picture = picture;
    if (picture) this.viewport.setPicture(picture.width, picture.height);
    this.redraw();
  }

  setTool(tool) {
    if (this.tool?.isActive) this.tool.cancel();
    this.tool = tool;
    this.scene.pointer = null;
    this.root.dataset.holds = tool ? tool.name : "move";
    this.redraw();
  }

  zoomIn(at) { this.#change(() => this.viewport.zoom(ZOOM, at)); }

  zoomOut(at) { this.#change(() => this.viewport.zoom(1 / ZOOM, at)); }

  fit() { this.#change(() => this.viewport.fit()); }

  redraw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      draw(this.canvas.getContext("2d"), this.viewport, this.scene, devicePixelRatio || 1);
    });
  }

  #change(move) {
    move();
    this.redraw();
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.root, ratio = devicePixelRatio || 1;
    if (!width || !height) return;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.#change(() => this.viewport.setWindow(width, height));
  }

  #listen() {
    const { canvas, root } = this;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => this.#up(event));
    canvas.addEventListener("pointerleave", () => {
      if (!this.pointers.size) this.#point(null);
    });
    canvas.addEventListener("dblclick", (event) => {
      if (!this.tool) this.zoomIn(this.#at(event));
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const step = Math.min(60, Math.max(-60, event.deltaY));
      this.#change(() => this.viewport.zoom(Math.exp(-step / 200), this.#at(event)));
    }, { passive: false });
    root.addEventListener("keydown", (event) => this.#key(event));
    root.addEventListener("keyup", (event) => {
      if (event.key === " ") this.#hold(false);
    });
    root.addEventListener("blur", () => this.#hold(false));
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  #down(event) {
    if (!this.scene.picture || event.button > 1) return;
    this.root.focus({ preventScroll: true });
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.#at(event));
    if (this.pointers.size > 1) {
      if (this.tool?.isActive) this.tool.cancel(); // two fingers zoom: what the first began was not meant
      return;
    }
    const pans = !this.tool || this.panning || event.button === 1;
    this.root.classList.toggle("grabbed", pans);
    if (!pans) this.tool.start(this.viewport.toPicture(this.#at(event)));
    this.redraw();
  }

  #move(event) {
    const at = this.#at(event), before = this.pointers.get(event.pointerId);
    if (this.tool && event.pointerType !== "touch") this.#point(this.viewport.toPicture(at));
    if (!before) return;
    if (this.pointers.size === 2) this.#pinch(event.pointerId, at);
    else if (this.tool?.isActive) this.tool.move(this.viewport.toPicture(at));
    else if (this.root.classList.contains("grabbed")) this.viewport.pan(at.x - before.x, at.y - before.y);
    this.pointers.set(event.pointerId, at);
    this.redraw();
  }

  #pinch(id, at) {
    const [other] = [...this.pointers].filter(([key]) => key !== id).map(([, place]) => place);
    const before = this.pointers.get(id);
    const middle = (a) => ({ x: (a.x + other.x) / 2, y: (a.y + other.y) / 2 });
    const apart = (a) => Math.hypot(a.x - other.x, a.y - other.y) || 1;
    this.viewport.zoom(apart(at) / apart(before), middle(before));
    this.viewport.pan(middle(at).x - middle(before).x, middle(at).y - middle(before).y);
  }

  #up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    this.root.classList.remove("grabbed");
    if (this.tool?.isActive) {
      if (event.type === "pointercancel") this.tool.cancel();
      else this.tool.end();
      if (!this.tool?.radius) this.#point(null); // the scale's line is there now
    }
    this.redraw();
  }

  /** The tool's pointer: where the mouse is, or where the arrow keys put it. */
  #point(place) {
    this.scene.pointer = place && { ...place, radius: this.tool?.radius ?? 0, active: Boolean(this.tool?.isActive) };
    this.redraw();
  }

  #hold(held) {
    this.panning = held;
    this.root.classList.toggle("hand", held);
  }

  #key(event) {
    if (event.target !== this.root || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === " ") this.#hold(true);
    else if (arrow && this.tool) this.#steer(arrow, event.shiftKey ? 5 * STEP : STEP);
    else if (arrow) this.#change(() => this.viewport.pan(-40 * arrow[0], -40 * arrow[1]));
    else if (event.key === "Enter" && this.tool) this.#press();
    else return;
    event.preventDefault();
  }

  #steer([right, down], pixels) {
    const { viewport, scene } = this;
    const { width, height } = viewport.picture, step = Math.max(1, pixels / viewport.scale);
    const from = scene.pointer ?? { x: width / 2, y: height / 2 };
    const place = {
      x: Math.min(width, Math.max(0, from.x + right * step)),
      y: Math.min(height, Math.max(0, from.y + down * step)),
    };
    if (this.tool.isActive) this.tool.move(place);
    viewport.reveal(place);
    this.#point(place);
  }

  #press() {
    const { width, height } = this.viewport.picture;
    const place = this.scene.pointer ?? { x: width / 2, y: height / 2 };
    if (this.tool.isActive) this.tool.end();
    else this.tool.start(place);
    this.#point(this.tool?.isActive || this.tool?.radius ? place : null);
  }
}
