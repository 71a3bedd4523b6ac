// The scale: a line along a ruler in the picture, and its length in mm.

import { $, say } from "./dom.js";

const SHORTEST = 4; // pixels of the photograph: a line below it is a slip of the hand

export class ScaleTool {
  /**
   * @param onSet ({line, mm, mmPerPixel}) => void, mm of a pixel's width; @param onLeave () => void
   * @param aspect () => height / width of a pixel
   */
  constructor(stage, onSet, onLeave, aspect) {
    Object.assign(this, { name: "scale", stage, onSet, onLeave, aspect, radius: 0, isActive: false });
    $("#scale-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#set();
    });
  }

  /** Chosen, or left: `kept` is the line to show then. */
  show(on, kept) {
    $("#scale-hint").hidden = !on;
    $("#scale-form").hidden = true;
    this.stage.scene.line = kept;
  }

  start(point) {
    this.isActive = true;
    this.stage.scene.line = { from: point, to: point, label: "" };
    $("#scale-form").hidden = true;
    $("#scale-hint").hidden = false;
    say("line begun");
  }

  move(point) {
    const { from } = this.stage.scene.line;
    this.stage.scene.line = { from, to: point, label: `${Math.round(lengthOf({ from, to: point }))} px` };
  }

  end() {
    this.isActive = false;
    if (lengthOf(this.stage.scene.line) < SHORTEST) {
      this.cancel();
      return;
    }
    $("#scale-hint").hidden = true;
    $("#scale-form").hidden = false;
    $("#scale-error").textContent = "";
    $("#scale-mm").value = "";
    $("#scale-mm").focus();
  }

  cancel() {
    this.isActive = false;
    this.stage.scene.line = null;
    this.stage.redraw();
  }

  #set() {
    const mm = Number($("#scale-mm").value.trim().replace(",", "."));
    if (!(mm > 0 && mm < 10000)) {
      $("#scale-error").textContent = "Give its length in mm, for example 10.";
      $("#scale-mm").focus();
      return;
    }
    const { from, to } = this.stage.scene.line;
    const line = { from, to, label: `${mm} mm` };
    this.onSet({ line, mm, mmPerPixel: mm / lengthOf(line, this.aspect()) });
    this.onLeave();
  }
}

/** In widths of a pixel. */
const lengthOf = ({ from, to }, aspect = 1) => Math.hypot(to.x - from.x, aspect * (to.y - from.y));
