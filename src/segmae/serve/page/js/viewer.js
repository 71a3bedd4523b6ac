// One photograph, open: loads it, shows it on the stage and in the panel, and keeps its mask and measurements up to date.

import { $, $$, say, toast } from "./dom.js";
import { Brush, BrushSize } from "./brush.js";
import { pathOf } from "./draw.js";
import { number, showMeasurements, showTrust } from "./facts.js";
import { changed, fail, settle, touch, work } from "./items.js";
import { colourMap, drawLegend } from "./maps.js";
import { Mask } from "./mask.js";
import { decode, dropPicture, fromService, turnsAlike } from "./picture.js";
import { ScaleTool } from "./scale.js";
import { measureMask, measureModel, segmentFully } from "./service.js";
import { Stage } from "./stage.js";
import { setUpSwipe } from "./swipe.js";

const LARGEST = 50e6; // pixels of a mask that is corrected here: a canvas of it takes four bytes each
const SETTLE = 250; // ms after a stroke before it is measured

export class Viewer {
  constructor() {
    this.item = null;
    this.view = "contour";
    this.opacity = { contour: 0, probability: 0.75, uncertainty: 0.75 };
    this.loading = new AbortController();
    this.measuring = new AbortController();
    this.timer = 0;
    this.stage = new Stage($("#stage"), $("#canvas"));
    this.swipe = setUpSwipe(this.stage);
    this.size = new BrushSize(() => this.stage.redraw());
    const onStroke = (what) => this.#stroke(what);
    const mask = () => this.item?.mask ?? null;
    this.tools = {
      move: null,
      brush: new Brush("brush", mask, this.size, onStroke),
      erase: new Brush("erase", mask, this.size, onStroke),
      scale: new ScaleTool(
        this.stage, (scale) => this.#setScale(scale), () => this.choose("move"), () => this.item.full.pixel_aspect,
      ),
    };
    this.tool = "move";
    for (const radio of $$("input[name=view]")) radio.addEventListener("change", () => this.setView(radio.value));
    $("#opacity").addEventListener("input", (event) => this.#setOpacity(event.target.value / 100));
  }

  async open(item) {
    this.close();
    this.item = item;
    touch(item);
    this.loading = new AbortController();
    $("#file-name").textContent = item.name;
    this.#show();
    await this.load();
  }

  close() {
    this.loading.abort();
    this.measuring.abort();
    clearTimeout(this.timer);
    this.choose("move");
    this.item = null;
    this.stage.setPicture(null);
  }

  /** Picture and answer, together; also what "Try again" does. */
  async load() {
    const { item } = this, { signal } = this.loading;
    const working = item.full ? "" : "Finding the lesion";
    this.#work(working);
    $("#viewer").classList.remove("failed");
    $("#failure").hidden = true;
    const seen = this.#loadPicture(item);
    try {
      if (!item.full) {
        const onWait = (seconds) => this.#work(`The service is busy; again in ${seconds} s`);
        if (item.state === "waiting" || item.state === "failed") item.state = "working"; // no longer the queue's
        item.full = await segmentFully(item.file, item.scale?.mmPerPixel, { signal, onWait });
        settle(item, item.full);
      }
      await seen;
      if (!this.#agrees(item)) await this.#askPicture(item, signal);
    } catch (error) {
      if (error.name === "AbortError") {
        if (item.state !== "working") return;
        item.state = "waiting"; // left before it was done: the queue takes it
        work();
      } else if (this.item === item) {
        fail(item, error);
        this.#fail(error);
      }
      return;
    }
    if (this.item !== item) return;
    this.#work("");
    this.#show();
    this.#announce();
    if (item.unmeasured) this.#measure();
    if (this.tool === "brush" || this.tool === "erase") this.choose(this.tool);
  }

  choose(name) {
    const wanted = this.item?.full ? name : "move";
    if (wanted === "brush" || wanted === "erase") {
      if (!this.#canPaint()) return;
    }
    this.tool = wanted;
    this.stage.setTool(this.tools[wanted]);
    $("#brush-options").hidden = wanted !== "brush" && wanted !== "erase";
    this.tools.scale.show(wanted === "scale", this.item?.scale?.line ?? null);
    for (const button of $$("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === wanted);
    if (this.item?.full) this.#refresh();
  }

  setView(view) {
    this.view = view;
    $(`input[name=view][value=${view}]`).checked = true;
    $("#opacity").value = 100 * this.opacity[view];
    $("#opacity-label").textContent = view === "contour" ? "Fill" : "Opacity";
    $("#legend").hidden = view === "contour";
    if (view !== "contour") drawLegend(view, $("#legend-bar"));
    this.#setOpacity(this.opacity[view]);
    this.#refresh();
  }

  /** The overlay on or off. Returns whether it is on. */
  hide() {
    this.stage.scene.shown = !this.stage.scene.shown;
    this.stage.redraw();
    return this.stage.scene.shown;
  }

  undo() { this.#step("undo"); }

  redo() { this.#step("redo"); }

  reset() {
    const { item } = this;
    if (!item?.mask?.reset()) return;
    this.#stroke("painted");
    say("back to the model's mask");
  }

  removeScale() {
    this.item.scale = null;
    this.stage.scene.line = null;
    this.#measure();
  }

  /** The mask as PNG: the corrected one, or the model's own file. */
  async maskPng(item = this.item) {
    return item.corrected ? item.mask.toPng() : item.full.mask;
  }

  // -- loading

  async #loadPicture(item) {
    if (!item.picture) {
      const picture = await decode(item.file);
      if (this.item !== item) {
        picture?.bitmap.close();
        return;
      }
      item.picture = picture;
    }
    if (item.picture) this.#place(item);
  }

  /** Whether what is drawn is the service's copy, or as large and turned the same way. */
  #agrees({ file, picture, full }) {
    const fits = () => turnsAlike(file, full) && picture.width === full.width && picture.height === full.height;
    return picture && (picture.served || fits());
  }

  async #askPicture(item, signal) {
    const picture = await fromService(item.file, item.full.width, item.full.height, { signal });
    if (this.item !== item) {
      picture.bitmap.close();
      return;
    }
    dropPicture(item);
    item.picture = picture;
    this.#place(item);
  }

  #place(item) {
    this.stage.setPicture(item.picture);
    this.size.fitTo(item.picture.width, item.picture.height);
  }

  // -- correcting

  #canPaint() {
    const { item } = this;
    if (item.full.width * item.full.height > LARGEST) {
      toast("This photograph is too large to correct here: more than 50 megapixels.");
      return false;
    }
    if (!item.mask) {
      Mask.fromPng(item.full.mask).then((mask) => {
        item.mask ??= mask;
        if (this.item === item) this.#refresh();
      });
    }
    if (this.view !== "contour") this.setView("contour");
    return true;
  }

  #stroke(what) {
    const { item } = this;
    if (what === "painting") {
      this.stage.scene.path = null; // the outline of before; the tint shows the mask
    } else if (what === "painted") {
      item.corrected = !item.mask.isOriginal;
      this.#changedMask();
      return;
    }
    if (what === "same") this.#refresh();
    this.stage.redraw();
  }

  #step(way) {
    const { item } = this;
    if (!item?.mask || !(way === "undo" ? item.mask.canUndo : item.mask.canRedo)) return;
    item.mask[way]();
    item.corrected = !item.mask.isOriginal;
    say(way === "undo" ? "undone" : "redone");
    this.#changedMask();
  }

  #changedMask() {
    this.item.outline = null;
    this.item.unmeasured = true;
    this.#refresh();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#measure(), SETTLE);
  }

  #setScale(scale) {
    this.item.scale = scale;
    this.#measure();
  }

  /** Ask the service for outline and measurements of the mask as it is now. */
  async #measure() {
    const { item } = this;
    item.unmeasured = true;
    this.measuring.abort();
    const { signal } = this.measuring = new AbortController();
    this.#work("Measuring");
    try {
      const scale = item.scale?.mmPerPixel;
      const found = item.corrected
        ? await measureMask(item.file, await item.mask.toPng(), scale, { signal })
        : await measureModel(item.file, scale, { signal });
      if (signal.aborted) return;
      item.outline = { polygons: found.polygons, measurements: found.measurements, share: found.lesion_share };
      item.unmeasured = false;
    } catch (error) {
      if (error.name === "AbortError") return;
      toast(`Not measured: ${error.message}`);
    }
    changed(item);
    if (this.item !== item) return;
    this.#work("");
    this.#refresh();
    if (item.outline) say(`measured: ${$("#facts").innerText.replaceAll("\n", " ")}`);
  }

  // -- showing

  #work(text) {
    $("#working").hidden = !text;
    if (text) $("#working-text").textContent = text;
    $("#stage").setAttribute("aria-busy", Boolean(text));
  }

  #fail(error) {
    this.#work("");
    $("#failure-text").textContent = error.message;
    $("#failure").hidden = false;
    $("#viewer").classList.add("failed");
    this.#show();
  }

  #announce() {
    const { item } = this, { full } = item;
    const found = full.polygons.length ? `lesion found, ${number(100 * full.lesion_share)} % of the picture` : "no lesion found";
    const sure = full.expected_dice === null ? "" : `, expected Dice ${full.expected_dice.toFixed(2)}`;
    say([`${item.name}: ${found}${sure}`, ...full.warnings].join(". "));
  }

  #show() {
    const { item } = this, { full } = item;
    const frames = full?.frames > 1 ? `, first of ${full.frames} pages` : "";
    $("#file-facts").textContent = full ? `${full.width} × ${full.height} px${frames}` : "";
    $("#stage").setAttribute("aria-label", `Photograph ${item.name}`);
    showTrust(full);
    for (const control of $$("[data-tool], [data-download], input[name=view], #opacity, [data-do=hide], [data-do=swipe]")) {
      control.disabled = !full;
    }
    $(".panel").classList.toggle("without", !full);
    this.#refresh();
  }

  /** Everything that depends on mask, view and tool. */
  #refresh() {
    const { item, stage } = this, { scene } = stage;
    const { full, outline, mask, corrected, scale } = item ?? {};
    const painting = this.tool === "brush" || this.tool === "erase";
    scene.path = outline ? pathOf(outline.polygons) : null;
    scene.mask = mask && (painting || !outline) ? mask.picture : null;
    scene.opacity = scene.mask ? Math.max(0.3, this.opacity.contour) : this.opacity[this.view];
    scene.map = null;
    if (full && this.view !== "contour") this.#map(item, this.view);
    scene.line = scale?.line ?? (this.tool === "scale" ? scene.line : null);
    showMeasurements(outline);
    $("#corrected").hidden = !corrected;
    $("#trust-title").textContent = corrected ? "Trust in the model's mask" : "Trust";
    $("[data-do=reset]").hidden = !corrected;
    $("[data-do=undo]").disabled = !mask?.canUndo;
    $("[data-do=redo]").disabled = !mask?.canRedo;
    $("#none").hidden = !(outline && !outline.polygons.length) || painting;
    $("[data-do=scale-remove]").hidden = !scale;
    $("#scale-said").textContent = scaleText(scale, outline?.measurements);
    $("[data-download=seg]").hidden = corrected || !/\.(dcm|dicom)$/i.test(item?.name ?? "");
    stage.redraw();
  }

  async #map(item, view) {
    const { full } = item;
    const name = view === "probability" ? "probability" : "uncertainty_map";
    full.maps ??= {};
    full.maps[view] ??= colourMap(view, full[name]);
    const map = await full.maps[view];
    if (this.item !== item || this.view !== view) return;
    this.stage.scene.map = map;
    this.stage.redraw();
  }

  #setOpacity(share) {
    this.opacity[this.view] = share;
    $("#opacity-value").value = `${Math.round(100 * share)} %`;
    this.stage.scene.opacity = share;
    this.stage.redraw();
  }
}

function scaleText(scale, measurements) {
  if (scale) return `Scale: ${number(1000 * scale.mmPerPixel)} µm a pixel.`;
  if (measurements?.mm_per_pixel) return "Scale: from the file.";
  return "No scale: lengths are in pixels.";
}
