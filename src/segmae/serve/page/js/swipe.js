// Before and after: a line across the stage; the overlay is drawn on its right only.

import { $ } from "./dom.js";

const STEP = 0.02;

export function setUpSwipe(stage) {
  const handle = $("#swipe");
  let place = 0.5;

  function put(share) {
    place = Math.min(1, Math.max(0, share));
    handle.style.left = `${100 * place}%`;
    handle.setAttribute("aria-valuenow", Math.round(100 * place));
    handle.setAttribute("aria-valuetext", `photograph alone on the left ${Math.round(100 * place)} %`);
    stage.scene.swipe = handle.hidden ? null : place;
    stage.redraw();
  }

  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    event.preventDefault();
  });
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = stage.root.getBoundingClientRect();
    put((event.clientX - box.left) / box.width);
  });
  handle.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: place - STEP, ArrowRight: place + STEP, Home: 0, End: 1, PageUp: place + 0.1, PageDown: place - 0.1 }[event.key];
    if (to === undefined) return;
    put(to);
    event.preventDefault();
    event.stopPropagation();
  });

  /** Returns whether it is on now. */
  return function toggle(on = handle.hidden) {
    handle.hidden = !on;
    put(on ? place : 0.5);
    return on;
  };
}
