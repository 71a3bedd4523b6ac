// A mask that can be painted on: exact pixels, undo and redo, and a tinted picture of itself to draw.

import { decodeGrey, encodeMask } from "./png.js";

const STEPS = 100; // of undo
const TINT = [0, 229, 255];

export class Mask {
  /** @param {Uint8Array} bits width * height values, 0 or 1 */
  constructor(bits, width, height) {
    Object.assign(this, { bits, width, height, done: [], undone: [], stroke: null, tint: null });
    this.original = bits.slice();
  }

  static async fromPng(blob) {
    const { grey, width, height } = await decodeGrey(blob);
    return new Mask(grey.map((value) => (value >= 128 ? 1 : 0)), width, height);
  }

  get canUndo() { return this.done.length > 0; }

  get canRedo() { return this.undone.length > 0; }

  get isOriginal() { return this.bits.every((bit, i) => bit === this.original[i]); }

  /** Begin a stroke that sets pixels to 1 or 0. */
  begin(value, radius) {
    this.stroke = { value, radius, before: this.bits.slice(), left: this.width, top: this.height, right: 0, bottom: 0 };
  }

  /** Paint from one point to another: all pixels whose centre is within the radius of the line. */
  line(from, to) {
    const { value, radius } = this.stroke;
    const left = Math.max(0, Math.floor(Math.min(from.x, to.x) - radius));
    const right = Math.min(this.width, Math.ceil(Math.max(from.x, to.x) + radius));
    const top = Math.max(0, Math.floor(Math.min(from.y, to.y) - radius));
    const bottom = Math.min(this.height, Math.ceil(Math.max(from.y, to.y) + radius));
    if (left >= right || top >= bottom) return;
    const dx = to.x - from.x, dy = to.y - from.y, squared = dx * dx + dy * dy || 1, reach = radius * radius;
    for (let y = top; y < bottom; y += 1) {
      const py = y + 0.5 - from.y;
      for (let x = left; x < right; x += 1) {
        const px = x + 0.5 - from.x;
        const along = Math.min(1, Math.max(0, (px * dx + py * dy) / squared));
        const ox = px - along * dx, oy = py - along * dy;
        if (ox * ox + oy * oy <= reach) this.bits[y * this.width + x] = value;
      }
    }
    const stroke = this.stroke;
    stroke.left = Math.min(stroke.left, left);
    stroke.right = Math.max(stroke.right, right);
    stroke.top = Math.min(stroke.top, top);
    stroke.bottom = Math.max(stroke.bottom, bottom);
    this.#paint(left, top, right, bottom);
  }

  /** Finish the stroke. Returns whether it changed a pixel. */
  end() {
    const { before, left, top, right, bottom } = this.stroke;
    this.stroke = null;
    return left < right && top < bottom && this.#remember(before, left, top, right, bottom);
  }

  /** Give the stroke up, as if it had not been. */
  cancel() {
    const { before } = this.stroke;
    this.stroke = null;
    this.bits.set(before);
    this.#paint(0, 0, this.width, this.height);
  }

  /** Back to the mask that it was made of; can be undone. */
  reset() {
    const before = this.bits.slice();
    this.bits.set(this.original);
    this.#paint(0, 0, this.width, this.height);
    return this.#remember(before, 0, 0, this.width, this.height);
  }

  undo() { this.#swap(this.done, this.undone, "before"); }

  redo() { this.#swap(this.undone, this.done, "after"); }

  toPng() { return encodeMask(this.bits, this.width, this.height); }

  /** A canvas with the lesion in cyan, made when it is first asked for. */
  get picture() {
    if (!this.tint) {
      this.tint = new OffscreenCanvas(this.width, this.height);
      this.#paint(0, 0, this.width, this.height);
    }
    return this.tint;
  }

  dropTint() { this.tint = null; }

  #remember(before, left, top, right, bottom) {
    const width = right - left, size = width * (bottom - top);
    const step = { left, top, width, height: bottom - top, before: new Uint8Array(size), after: new Uint8Array(size) };
    for (let y = 0; y < step.height; y += 1) {
      const start = (top + y) * this.width + left;
      step.before.set(before.subarray(start, start + width), y * width);
      step.after.set(this.bits.subarray(start, start + width), y * width);
    }
    if (step.before.every((bit, i) => bit === step.after[i])) return false;
    this.done.push(step);
    if (this.done.length > STEPS) this.done.shift();
    this.undone.length = 0;
    return true;
  }

  #swap(from, to, side) {
    const step = from.pop();
    if (!step) return;
    to.push(step);
    for (let y = 0; y < step.height; y += 1) {
      this.bits.set(step[side].subarray(y * step.width, (y + 1) * step.width), (step.top + y) * this.width + step.left);
    }
    this.#paint(step.left, step.top, step.left + step.width, step.top + step.height);
  }

  #paint(left, top, right, bottom) {
    if (!this.tint) return;
    const width = right - left, height = bottom - top;
    const pixels = new ImageData(width, height);
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        if (!this.bits[(top + y) * this.width + left + x]) continue;
        const at = 4 * (y * width + x);
        pixels.data[at] = TINT[0];
        pixels.data[at + 1] = TINT[1];
        pixels.data[at + 2] = TINT[2];
        pixels.data[at + 3] = 255;
      }
    }
    this.tint.getContext("2d").putImageData(pixels, left, top);
  }
}
