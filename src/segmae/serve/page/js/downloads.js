// What a person takes along: files of one photograph, or a zip of all of them.

import { $, $$, pause, toast } from "./dom.js";
import { cocoOf, dicomSegOf, forgetJob, jobResults, jobStatus, overlayOf, startJob } from "./service.js";

const FORMATS = "mask,overlay,coco,csv,html";
const PICTURES = ["mask", "probability", "uncertainty_map", "maps", "timing_ms", "request_id"];

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const stemOf = (name) => name.replace(/\.[^.]*$/, "") || name;
const textBlob = (value) => new Blob([`${JSON.stringify(value, null, 1)}\n`], { type: "application/json" });

const MAKERS = {
  mask: async (item, png) => [png, "_mask.png"],
  overlay: async (item, png) => [await overlayOf(item.file, png), "_overlay.png"],
  json: async (item) => [textBlob(described(item)), ".json"],
  coco: async (item, png) => [textBlob(completed(await cocoOf(item.file, png), item)), "_coco.json"],
  seg: async (item) => [await dicomSegOf(item.file), "_seg.dcm"],
};

/** The service's answer with the outline and measurements that are shown, and what a person changed. */
function described(item) {
  const answer = Object.fromEntries(Object.entries(item.full).filter(([key]) => !PICTURES.includes(key)));
  const { polygons, measurements, share } = item.outline;
  return { file: item.name, corrected: item.corrected, ...answer, lesion_share: share, polygons, measurements };
}

/** With what the service does not know of the mask that it was sent: the file's name, and how sure the model is of its own. */
function completed(coco, item) {
  for (const image of coco.images) image.file_name = item.name;
  if (!item.corrected) for (const lesion of coco.annotations) lesion.score = Number((1 - item.full.uncertainty).toFixed(6));
  return coco;
}

export function setUpDownloads(viewer) {
  for (const button of $$("[data-download]")) {
    button.addEventListener("click", async () => {
      const { item } = viewer;
      if (!item.outline) {
        toast("The mask is being measured. Try again in a moment.");
        return;
      }
      button.disabled = true;
      try {
        const [blob, ending] = await MAKERS[button.dataset.download](item, await viewer.maskPng());
        save(blob, stemOf(item.name) + ending);
      } catch (error) {
        toast(`Not downloaded: ${error.message}`);
      }
      button.disabled = false;
    });
  }
}

/** All photographs as a job of the service, and its zip. The model's masks, not the corrected ones. */
export async function downloadAll(items) {
  const said = $("#job-said"), button = $("#download-all");
  const tell = (text) => {
    said.textContent = text;
    said.hidden = !text;
  };
  button.disabled = true;
  tell("Sending the photographs.");
  try {
    const job = await startJob(items.map((item) => item.file), FORMATS);
    try {
      save(await finished(job, tell), "segmae-results.zip");
    } finally {
      await forgetJob(job.id); // nothing stays on the server
    }
    const corrected = items.filter((item) => item.corrected).length;
    tell(corrected ? `The zip holds the model's masks. Download the ${corrected} corrected one${corrected > 1 ? "s" : ""} from the photograph itself.` : "");
  } catch (error) {
    tell(`Not downloaded: ${error.message}`);
  }
  button.disabled = false;
}

async function finished(job, tell) {
  let status = job;
  while (status.state === "queued" || status.state === "running") {
    tell(`Making the files: ${status.done + status.failed} of ${status.total}.`);
    await pause(500);
    status = await jobStatus(job.id);
  }
  if (status.state !== "done") throw new Error(`the job ${status.state}.`);
  return jobResults(job.id);
}
