// Brush and eraser: strokes on the mask of the photograph that is open.

import { $, say, toast } from "./dom.js";

/** Brush or eraser; `mask()` gives the Mask, or null while it is not there yet. */
export class Brush {
  /** @param {"brush" | "erase"} name */
  constructor(name, mask, size, onChange) {
    Object.assign(this, { name, mask, size, onChange, last: null, painted: null });
  }

  get radius() { return this.size.radius; }

  get isActive() { return this.last !== null; }

  start(point) {
    this.painted = this.mask();
    if (!this.painted) {
      toast("The mask is not ready yet: draw that line again.");
      return;
    }
    this.painted.begin(this.name === "brush" ? 1 : 0, this.radius);
    this.last = point;
    this.move(point);
  }

  move(point) {
    this.painted.line(this.last, point);
    this.last = point;
    this.onChange("painting");
  }

  end() {
    this.last = null;
    this.onChange(this.painted.end() ? "painted" : "same");
  }

  cancel() {
    this.last = null;
    this.painted.cancel();
    this.onChange("same");
  }
}

/** The slider of the brush's size: logarithmic, in pixels of the photograph, between 1 px and a quarter of it. */
export class BrushSize {
  constructor(onChange) {
    this.slider = $("#brush-size");
    this.most = 100;
    this.onChange = onChange;
    this.slider.addEventListener("input", () => this.#show());
  }

  get radius() { return Math.max(1, this.most ** (this.slider.value / 100)) / 2; }

  fitTo(width, height) {
    this.most = Math.max(8, Math.min(width, height) / 4);
    this.#show();
  }

  step(by) {
    this.slider.value = Number(this.slider.value) + by;
    this.#show();
    say(`brush ${$("#brush-px").value}`);
  }

  #show() {
    const text = `${Math.round(2 * this.radius)} px`;
    $("#brush-px").value = text;
    this.slider.setAttribute("aria-valuetext", text);
    this.onChange();
  }
}
