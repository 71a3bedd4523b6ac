// Several photographs as a grid: each with its outline, how sure it is, or what went wrong.

import { $, make, say } from "./dom.js";
import { number } from "./facts.js";
import { items } from "./items.js";
import { thumbnail, turnsAlike } from "./picture.js";

const SIDE = 400; // pixels of a thumbnail
const SVG = "http://www.w3.org/2000/svg";
const ORDERS = {
  added: (a, b) => a.id - b.id,
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }) || a.id - b.id,
  uncertainty: (a, b) => value(b, "uncertainty") - value(a, "uncertainty") || a.id - b.id,
  share: (a, b) => value(b, "lesion_share") - value(a, "lesion_share") || a.id - b.id,
};
// What has no value yet, or failed, comes last.
const value = (item, key) => (item.brief ? item.brief[key] : -1);

const cards = new Map(); // id -> {li, parts}
let finished = false;

/** @param {(id: number) => void} open */
export function setUpBatch(open) {
  $("#cards").addEventListener("click", (event) => {
    const card = event.target.closest("button");
    if (card) open(Number(card.dataset.id));
  });
  $("#cards").addEventListener("keydown", (event) => move(event));
  $("#sort").addEventListener("change", () => {
    arrange();
    say(`sorted by ${$("#sort").selectedOptions[0].textContent}`);
  });
}

/** The photographs in the order shown. */
export const ordered = () => [...items].sort(ORDERS[$("#sort").value]);

/** Bring the grid up to date; `item` is the one that changed, or null for all of them. */
export function showBatch(item) {
  for (const [id, card] of cards) {
    if (!items.some((one) => one.id === id)) {
      card.li.remove();
      cards.delete(id);
    }
  }
  for (const one of items) if (!cards.has(one.id)) cards.set(one.id, makeCard(one));
  for (const one of item ? [item] : items) if (cards.has(one.id)) fill(cards.get(one.id), one);
  arrange();
  progress();
}

function makeCard(item) {
  const canvas = make("canvas", { width: 4, height: 3 });
  const outline = document.createElementNS(SVG, "svg");
  outline.setAttribute("preserveAspectRatio", "xMidYMid meet");
  const picture = make("span", { className: "card-picture" }, canvas, outline);
  picture.setAttribute("aria-hidden", "true");
  const parts = { name: make("span", { className: "card-name" }), facts: make("span", { className: "card-facts" }) };
  const button = make("button", { type: "button", className: "card" }, picture, parts.name, parts.facts);
  button.dataset.id = item.id;
  thumbnail(item.file, canvas, SIDE).then((seen) => {
    if (!seen) picture.classList.add("unseen-file");
  });
  return { li: make("li", {}, button), button, picture, outline, ...parts };
}

function fill(card, item) {
  card.button.dataset.state = item.state;
  card.name.textContent = item.name;
  card.facts.textContent = factsOf(item);
  card.outline.replaceChildren();
  if (item.brief && !turnsAlike(item.file, item.brief)) card.picture.classList.add("unseen-file");
  if (!item.brief || !item.outline) return;
  const { width, height } = item.brief;
  card.outline.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const d = item.outline.polygons.flatMap(({ outer, holes }) => [outer, ...holes])
    .map((ring) => `M${ring.map((point) => point.join(" ")).join("L")}Z`).join("");
  for (const name of ["rim", "line"]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    path.setAttribute("class", name);
    card.outline.append(path);
  }
}

function factsOf({ state, error, brief, outline, corrected }) {
  if (state === "failed") return error;
  if (state !== "done") return state === "working" ? "Finding the lesion" : "Waiting";
  const share = outline?.share ?? brief.lesion_share;
  const found = share ? `lesion ${number(100 * share)} %` : "no lesion";
  const flag = corrected ? ", corrected" : brief.warnings.length ? ", look twice" : "";
  return `${found}${flag}\nuncertainty ${brief.uncertainty.toFixed(3)}`;
}

/** Put the cards in order, moving only what is out of place: the focus stays where it is. */
function arrange() {
  const list = $("#cards");
  ordered().forEach((item, place) => {
    const { li } = cards.get(item.id);
    if (list.children[place] === li) return;
    const focused = li.contains(document.activeElement);
    list.insertBefore(li, list.children[place] ?? null);
    if (focused) li.firstChild.focus();
  });
}

function progress() {
  const done = items.filter(({ state }) => state === "done").length;
  const failed = items.filter(({ state }) => state === "failed").length;
  const all = done + failed === items.length;
  $("#batch-title").textContent = `${items.length} photograph${items.length === 1 ? "" : "s"}`;
  $("#batch-progress").textContent = (all ? "All done" : `${done + failed} done`) + (failed ? `, ${failed} could not be segmented` : "");
  $("#batch-bar").hidden = all;
  $("#batch-bar").value = items.length ? (done + failed) / items.length : 0;
  if (all && !finished && items.length > 1) say(`${$("#batch-title").textContent}: ${$("#batch-progress").textContent}`);
  finished = all;
}

function move(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: "up", ArrowDown: "down", Home: "first", End: "last" }[event.key];
  if (!step) return;
  const all = [...$("#cards").children], here = all.findIndex((li) => li.contains(event.target));
  const columns = getComputedStyle($("#cards")).gridTemplateColumns.split(" ").length;
  const place = { up: here - columns, down: here + columns, first: 0, last: all.length - 1 }[step] ?? here + step;
  const next = all[place];
  if (!next) return;
  next.firstChild.focus();
  event.preventDefault();
}
