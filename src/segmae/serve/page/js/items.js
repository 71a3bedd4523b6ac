// The photographs on the page and what is known of each; a queue segments them two at a time.

import { segmentBriefly } from "./service.js";
import { dropPicture } from "./picture.js";

const LANES = 2;
const KEPT = 6; // photographs whose picture and maps stay in memory

/**
 * One photograph.
 * state: waiting, working, done or failed. brief: the service's answer without maps. full: the answer with maps.
 * outline: polygons and measurements that are shown, of the model or of the corrected mask.
 * unmeasured: mask or scale changed since, and the service has not answered yet.
 * mask: the Mask where it was looked at for correction. scale: {line, mm, mmPerPixel} or null.
 */
function newItem(file, id) {
  return {
    id, file, name: file.name || "pasted picture", state: "waiting", error: "", brief: null, full: null,
    outline: null, unmeasured: false, mask: null, corrected: false, scale: null, picture: null, aspect: null,
  };
}

export const items = [];
const listeners = [];
let nextId = 1;
let running = 0;
let opened = []; // least recent first
let stopped = new AbortController();

export const onChange = (listener) => listeners.push(listener);
export const changed = (item) => listeners.forEach((listener) => listener(item));
export const byId = (id) => items.find((item) => item.id === id);

export function add(files) {
  const added = files.map((file) => newItem(file, nextId++));
  items.push(...added);
  changed(null);
  return added;
}

export function clear() {
  stopped.abort();
  stopped = new AbortController();
  items.forEach(dropPicture);
  items.length = 0;
  opened = [];
  changed(null);
}

/** Segment what waits. One that fails says so and stops no other. */
export function work() {
  while (running < LANES) {
    const item = items.find((one) => one.state === "waiting");
    if (!item) return;
    running += 1;
    briefly(item).finally(() => {
      running -= 1;
      work();
    });
  }
}

async function briefly(item) {
  item.state = "working";
  changed(item);
  try {
    const answer = await segmentBriefly(item.file, { signal: stopped.signal });
    if (item.state !== "done") settle(item, answer); // else the viewer had its answer first, which says more
  } catch (error) {
    if (item.state !== "done") fail(item, error);
  }
}

/** The model's answer has come: it is the outline unless the mask was corrected. */
export function settle(item, answer) {
  item.state = "done";
  item.error = "";
  item.brief = answer;
  if (!item.corrected) item.outline = { polygons: answer.polygons, measurements: answer.measurements, share: answer.lesion_share };
  changed(item);
}

export function fail(item, error) {
  if (error.name === "AbortError") return;
  item.state = "failed";
  item.error = error.message;
  changed(item);
}

/** Note that a photograph is looked at, and let go of pictures and maps that were not for long. */
export function touch(item) {
  opened = [...opened.filter((one) => one !== item), item];
  while (opened.length > KEPT) {
    const old = opened.shift();
    dropPicture(old);
    old.full = null;
    if (!old.corrected) old.mask = null;
    else old.mask.dropTint();
  }
}
