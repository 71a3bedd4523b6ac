// What the page asks of the service, one function a question.

import { get, getJson, post, remove } from "./api.js";

const ALL = "mask,probability,uncertainty,measurements";

/** Everything about one photograph, with maps: `mask`, `probability` and `uncertainty_map` hold PNG Blobs afterwards. */
export async function segmentFully(file, mmPerPixel, options) {
  const answer = await (await post("/v1/segment", { image: file, include: ALL, mm_per_pixel: mmPerPixel }, options)).json();
  for (const name of ["mask", "probability", "uncertainty_map"]) answer[name] = pngBlob(answer[name].png);
  return answer;
}

/** The outline and how sure it is; no maps. */
export const segmentBriefly = async (file, options) =>
  (await post("/v1/segment", { image: file }, options)).json();

/** Measurements of the model's own mask, with a scale. */
export const measureModel = async (file, mmPerPixel, options) =>
  (await post("/v1/segment", { image: file, include: "measurements", mm_per_pixel: mmPerPixel }, options)).json();

/** Polygons and measurements of a corrected mask. */
export const measureMask = async (file, mask, mmPerPixel, options) =>
  (await post("/v1/measure", { image: file, mask, mm_per_pixel: mmPerPixel }, options)).json();

export const overlayOf = async (file, mask) =>
  (await post("/v1/measure", { image: file, mask, output: "overlay" })).blob();

export const cocoOf = async (file, mask) =>
  (await post("/v1/measure", { image: file, mask, output: "coco" })).json();

export const dicomSegOf = async (file) =>
  (await post("/v1/segment", { image: file, output: "seg" })).blob();

/** A PNG with the untouched photograph on its left half: for files that no browser shows. */
export const sideBySide = async (file, options) =>
  (await post("/v1/segment", { image: file, output: "overlay", overlay_style: "side" }, options)).blob();

export const startJob = async (files, formats) => (await post("/v1/jobs", { images: files, formats })).json();
export const jobStatus = (id) => getJson(`/v1/jobs/${id}`);
export const jobResults = async (id) => (await get(`/v1/jobs/${id}/results`)).blob();
export const forgetJob = (id) => remove(`/v1/jobs/${id}`);

function pngBlob(base64) {
  const text = atob(base64);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}
