// Single-key shortcuts, the table that shows them, and the switch that turns them off.

import { $, make } from "./dom.js";

const OFF = "segmae-keys-off";
const TABLE = [
  ["O", "open photographs"], ["C", "camera"],
  ["1 2 3", "contour, probability, uncertainty"], ["H", "overlay on or off"], ["W", "before and after"],
  ["+ − 0", "zoom in, out, whole picture"], ["Arrow keys", "move the picture, or the pointer of a tool (Shift: further)"],
  ["Space and drag", "move the picture while a tool is chosen"],
  ["V B E S", "move, brush, eraser, scale"], ["Enter", "begin and end a line with the tool"], ["[ ]", "smaller, larger brush"],
  ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo"], ["Page Up, Page Down", "previous, next photograph"],
  ["Escape", "leave the tool, then back to all photographs"], ["?", "this table"],
];

/** @param {object} actions key -> function; keys as KeyboardEvent.key, letters small */
export function setUpKeys(actions) {
  const dialog = $("#help-dialog"), box = $("#keys-on");
  $("#help-keys").append(...TABLE.map(([keys, what]) => make("tr", {}, make("th", { scope: "row", textContent: keys }), make("td", { textContent: what }))));
  box.checked = !localStorage.getItem(OFF);
  box.addEventListener("change", () => (box.checked ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "1")));
  $("#help-close").addEventListener("click", () => dialog.close());
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || $("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.metaKey) {
      const what = key === "y" || (key === "z" && event.shiftKey) ? "redo" : key === "z" ? "undo" : "";
      if (!what || isText(event.target)) return;
      actions[what]();
      event.preventDefault();
      return;
    }
    if (event.altKey || !(key in actions) || (key.length === 1 && !box.checked)) return;
    if (key !== "Escape" && (isText(event.target) || isChoice(event.target, key))) return;
    actions[key]();
    event.preventDefault();
  });
}

export const showHelp = () => $("#help-dialog").showModal();

const isText = (element) => element.matches("input:not([type=range], [type=radio], [type=checkbox]), textarea, select");
/** Keys that a slider or a list of choices has a use for. */
const isChoice = (element, key) => element.matches("input[type=range]") && ["PageUp", "PageDown", "+", "-"].includes(key);
