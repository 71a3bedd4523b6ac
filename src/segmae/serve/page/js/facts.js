// Numbers as people read them: the lists of trust and of measurements.

import { $, make } from "./dom.js";

/** Three significant digits, without an exponent. */
export function number(value) {
  if (value >= 1000) return Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
  return String(Number(value.toPrecision(3)));
}

const percent = (share) => `${number(100 * share)} %`;

/** A length or area in mm where there is a scale, else in pixels. */
function sized(found, name, px, mm) {
  const scaled = found[`${name}_${mm}`];
  const units = { px: "px", mm: "mm", mm2: "mm²" };
  return scaled === null ? `${number(found[`${name}_${px}`])} px` : `${number(scaled)} ${units[mm]}`;
}

export function showMeasurements(outline) {
  const found = outline?.measurements;
  fill("#facts", found ? [
    ["Longest diameter", sized(found, "longest_diameter", "px", "mm")],
    ["Area", sized(found, "area", "px", "mm2")],
    ["Perimeter", sized(found, "perimeter", "px", "mm")],
    ["Share of the picture", percent(outline.share)],
  ] : []);
  fill("#more-facts", found ? [
    ["Equivalent diameter", sized(found, "equivalent_diameter", "px", "mm")],
    ["Compactness (a disc is 1)", maybe(found.compactness)],
    ["Border irregularity (smooth is 1)", maybe(found.border_irregularity)],
    ["Asymmetric axes of the shape", maybe(found.asymmetry_shape_score)],
    ["Colour asymmetry, ΔE", both(found.asymmetry_colour_major_de, found.asymmetry_colour_minor_de)],
    ["Colour variegation, ΔE", maybe(found.colour_variegation_de)],
    ["Pieces, holes", `${found.pieces}, ${found.holes}`],
    ["Reaches the picture's edge", found.touches_border ? "yes" : "no"],
  ] : []);
}

export function showTrust(answer) {
  if (!answer) {
    fill("#trust", []);
    $("#warnings").replaceChildren();
    return;
  }
  const rows = [["Uncertainty, 0 to 1", answer.uncertainty.toFixed(3)]];
  if (answer.expected_dice !== null) rows.unshift(["Expected Dice", answer.expected_dice.toFixed(2)]);
  fill("#trust", rows);
  $("#warnings").replaceChildren(...answer.warnings.map((text) => make("li", { textContent: `Look twice: ${text}` })));
}

const maybe = (value) => (value === null ? "none" : number(value));
const both = (a, b) => (a === null ? "none" : `${number(a)}, ${number(b)}`);

function fill(list, rows) {
  $(list).replaceChildren(...rows.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
}
