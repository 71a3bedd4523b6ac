// A photograph as the page draws it: at most SIDE pixels a side, turned as the service turns it.

import { sideBySide } from "./service.js";

const SIDE = 4096; // canvases above it are slow, and some phones refuse them

/**
 * The photograph as {bitmap, width, height}; width and height are those of the file, the bitmap may be smaller.
 * The service's copy is `served`.
 * Returns null where the browser cannot read the file (TIFF, DICOM).
 */
export async function decode(file) {
  let whole;
  try {
    whole = await createImageBitmap(file);
  } catch {
    return null;
  }
  return bounded(whole);
}

/** Whether a browser turns the file as the service does: an EXIF entry is heeded by all in JPEG alone, not by Chromium in WebP. */
export const turnsAlike = (file, answer) => answer.orientation === 1 || file.type === "image/jpeg";

/** The photograph as the service sees it; for files that the browser cannot show or turns another way. */
export async function fromService(file, width, height, options) {
  const picture = await sideBySide(file, options);
  return { ...await bounded(await createImageBitmap(picture, 0, 0, width, height)), served: true };
}

async function bounded(whole) {
  const { width, height } = whole;
  const scale = Math.min(1, SIDE / Math.max(width, height));
  if (scale === 1) return { bitmap: whole, width, height };
  const size = { resizeWidth: Math.round(width * scale), resizeHeight: Math.round(height * scale), resizeQuality: "high" };
  const bitmap = await createImageBitmap(whole, size);
  whole.close();
  return { bitmap, width, height };
}

export function dropPicture(item) {
  item.picture?.bitmap.close();
  item.picture = null;
}

/** Draw a file into a small canvas. Returns whether the browser can read it. */
export async function thumbnail(file, canvas, side) {
  let whole;
  try {
    whole = await createImageBitmap(file);
  } catch {
    return false;
  }
  const scale = Math.min(1, side / Math.max(whole.width, whole.height));
  canvas.width = Math.max(1, Math.round(whole.width * scale));
  canvas.height = Math.max(1, Math.round(whole.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(whole, 0, 0, canvas.width, canvas.height);
  whole.close();
  return true;
}
