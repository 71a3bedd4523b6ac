// Where the picture lies in its window: a scale (CSS pixels a photograph's pixel) and an offset.

const MARGIN = 0.94; // share of the window that the whole picture takes
const MOST = 40; // CSS pixels a photograph's pixel

export class Viewport {
  constructor() {
    Object.assign(this, { scale: 1, x: 0, y: 0, fitted: true, window: { width: 1, height: 1 }, picture: { width: 1, height: 1 } });
  }

  get fitScale() {
    const { window, picture } = this;
    return MARGIN * Math.min(window.width / picture.width, window.height / picture.height);
  }

  fit() {
    this.scale = this.fitScale;
    this.x = (this.window.width - this.picture.width * this.scale) / 2;
    this.y = (this.window.height - this.picture.height * this.scale) / 2;
    this.fitted = true;
  }

  setPicture(width, height) {
    this.picture = { width, height };
    this.fit();
  }

  /** The window changed: keep its middle where it is, or the whole picture in view. */
  setWindow(width, height) {
    const before = this.window;
    this.window = { width, height };
    if (this.fitted) {
      this.fit();
      return;
    }
    this.x += (width - before.width) / 2;
    this.y += (height - before.height) / 2;
    this.#keep();
  }

  zoom(factor, at = { x: this.window.width / 2, y: this.window.height / 2 }) {
    const scale = Math.min(Math.max(this.scale * factor, this.fitScale * 0.5), Math.max(MOST, this.fitScale));
    this.x = at.x - (at.x - this.x) * (scale / this.scale);
    this.y = at.y - (at.y - this.y) * (scale / this.scale);
    this.scale = scale;
    this.fitted = false;
    this.#keep();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.#keep();
  }

  toPicture({ x, y }) {
    return { x: (x - this.x) / this.scale, y: (y - this.y) / this.scale };
  }

  toWindow({ x, y }) {
    return { x: x * this.scale + this.x, y: y * this.scale + this.y };
  }

  /** Bring a point of the picture into view. */
  reveal(point) {
    const { x, y } = this.toWindow(point), edge = 24;
    const dx = x < edge ? edge - x : Math.min(0, this.window.width - edge - x);
    const dy = y < edge ? edge - y : Math.min(0, this.window.height - edge - y);
    if (dx || dy) this.pan(dx, dy);
  }

  /** Some of the picture always stays in the window. */
  #keep() {
    const { window, picture, scale } = this, left = 60;
    this.x = Math.min(window.width - left, Math.max(left - picture.width * scale, this.x));
    this.y = Math.min(window.height - left, Math.max(left - picture.height * scale, this.y));
  }
}
