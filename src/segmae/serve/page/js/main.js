// Puts the parts together: which of start, batch and viewer is seen, and what each button and key does.

import { onKeyNeeded } from "./api.js";
import { ordered, setUpBatch, showBatch } from "./batch.js";
import { openCamera, setUpCamera } from "./camera.js";
import { $, $$, toast } from "./dom.js";
import { downloadAll, setUpDownloads } from "./downloads.js";
import { add, byId, clear, items, onChange, work } from "./items.js";
import { takeIn } from "./intake.js";
import { askKey } from "./keydialog.js";
import { setUpKeys, showHelp } from "./keys.js";
import { Viewer } from "./viewer.js";

const viewer = new Viewer();
let shown = "start";

function show(section) {
  shown = section;
  for (const name of ["start", "batch", "viewer"]) $(`#${name}`).hidden = name !== section;
  document.body.dataset.shown = section;
}

function receive(files, from) {
  if (!files.length) {
    toast(from === "folder" ? "There is no photograph in this folder." : "No photograph came with that.");
    return;
  }
  const added = add(files);
  if (added.length > 1) toBatch();
  else openItem(added[0].id);
  work();
}

function openItem(id) {
  show("viewer");
  $("#batch-nav").hidden = items.length < 2;
  $("#batch-nav-count").textContent = `All ${items.length} photographs`;
  viewer.open(byId(id));
  document.title = `${byId(id).name} - segmae`;
  $("#stage").focus({ preventScroll: true });
}

function toBatch(left = null) {
  viewer.close();
  show("batch");
  document.title = "segmae";
  showBatch(null);
  work();
  if (left) $(`[data-id="${left.id}"]`)?.focus();
}

const back = () => toBatch(viewer.item);

function toStart() {
  viewer.close();
  clear();
  show("start");
}

function neighbour(step) {
  if (shown !== "viewer") return;
  const list = ordered(), next = list[list.indexOf(viewer.item) + step];
  if (next) openItem(next.id);
}

const pressed = (name, on) => $(`[data-do=${name}]`).setAttribute("aria-pressed", on);
const inViewer = (action) => () => shown === "viewer" && viewer.item?.full && action();

const actions = {
  open: () => $("#pick-files").click(),
  folder: () => $("#pick-folder").click(),
  camera: openCamera,
  help: showHelp,
  "zoom-in": () => viewer.stage.zoomIn(),
  "zoom-out": () => viewer.stage.zoomOut(),
  fit: () => viewer.stage.fit(),
  hide: inViewer(() => pressed("hide", viewer.hide())),
  swipe: inViewer(() => pressed("swipe", viewer.swipe())),
  undo: () => viewer.undo(),
  redo: () => viewer.redo(),
  reset: () => viewer.reset(),
  retry: () => viewer.load(),
  "scale-cancel": () => viewer.choose("move"),
  "scale-remove": () => viewer.removeScale(),
  all: back,
  previous: () => neighbour(-1),
  next: () => neighbour(1),
};

function take(name) {
  viewer.choose(name);
  $("#stage").focus({ preventScroll: true }); // so that arrow keys and Enter reach it
}

const tool = (name) => inViewer(() => take(name));
const view = (name) => inViewer(() => viewer.setView(name));

function leave() {
  if (shown !== "viewer") return;
  if (viewer.tool !== "move") {
    take("move");
  } else if (items.length > 1) {
    back();
  }
}

for (const button of $$("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);
for (const button of $$("[data-tool]")) button.addEventListener("click", () => take(button.dataset.tool));
$("#download-all").addEventListener("click", () => downloadAll(items));
$("#clear").addEventListener("click", toStart);
setUpKeys({
  o: actions.open, c: actions.camera, "?": showHelp, undo: actions.undo, redo: actions.redo,
  1: view("contour"), 2: view("probability"), 3: view("uncertainty"), h: actions.hide, w: actions.swipe,
  "+": actions["zoom-in"], "=": actions["zoom-in"], "-": actions["zoom-out"], 0: actions.fit,
  v: tool("move"), b: tool("brush"), e: tool("erase"), s: tool("scale"),
  "[": inViewer(() => viewer.size.step(-5)), "]": inViewer(() => viewer.size.step(5)),
  PageUp: actions.previous, PageDown: actions.next, Escape: leave,
});
onKeyNeeded(askKey);
onChange((item) => shown === "batch" && showBatch(item));
setUpBatch(openItem);
setUpCamera(receive);
setUpDownloads(viewer);
takeIn(receive);
show("start");
