// Probability and uncertainty as colours: light means much, and where there is nothing the skin shows through.

import { decodeGrey } from "./png.js";

const STOPS = {
  probability: ["#0b1e5b", "#1763a6", "#1aa5c0", "#6fe0c8", "#f4ffd6"],
  uncertainty: ["#1b0a3c", "#6d1a7b", "#c9375d", "#f98a3c", "#fdf3a8"],
};

/** 256 colours between the stops, as [r, g, b]. */
function scaleOf(kind) {
  const stops = STOPS[kind].map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, value) => {
    const place = (value / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((part, i) => Math.round(part + (stops[low + 1][i] - part) * (place - low)));
  });
}

/** A canvas of the map's own size. */
export async function colourMap(kind, png) {
  const { grey, width, height } = await decodeGrey(png);
  const colours = scaleOf(kind), pixels = new ImageData(width, height);
  for (let i = 0; i < grey.length; i += 1) {
    const value = grey[i];
    pixels.data.set(colours[value], 4 * i);
    pixels.data[4 * i + 3] = Math.min(255, value * 2); // the lower half fades out
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

export function drawLegend(kind, canvas) {
  const context = canvas.getContext("2d");
  scaleOf(kind).forEach(([r, g, b], x) => {
    context.fillStyle = `rgb(${r} ${g} ${b})`;
    context.fillRect(x, 0, 1, 1);
  });
}
