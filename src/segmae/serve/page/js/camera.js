// A photograph from the camera: the phone's own camera app, or a window with the webcam's picture on a desktop.

import { $ } from "./dom.js";

let stream = null;

/** @param {(files: File[], from: string) => void} receive */
export function setUpCamera(receive) {
  const dialog = $("#camera-dialog");
  $("#camera-cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", stop);
  $("#camera-take").addEventListener("click", async () => {
    const file = await frameOf($("#camera-video"));
    dialog.close();
    receive([file], "files");
  });
}

export async function openCamera() {
  const handheld = matchMedia("(pointer: coarse)").matches;
  if (handheld || !navigator.mediaDevices) { // browsers give the webcam to https and localhost only
    $("#pick-camera").click();
    return;
  }
  const video = $("#camera-video");
  $("#camera-said").textContent = "";
  $("#camera-take").disabled = true;
  $("#camera-dialog").showModal();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1920 }, facingMode: "environment" } });
  } catch (error) {
    $("#camera-said").textContent = error.name === "NotAllowedError"
      ? "The browser does not allow the camera here."
      : "No camera was found.";
    return;
  }
  if (!$("#camera-dialog").open) { // closed while the browser asked
    stop();
    return;
  }
  video.srcObject = stream;
  await video.play();
  $("#camera-take").disabled = false;
  $("#camera-take").focus();
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  $("#camera-video").srcObject = null;
}

async function frameOf(video) {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  const when = new Date().toISOString().slice(0, 19).replace("T", "_").replaceAll(":", "");
  return new File([blob], `camera_${when}.jpg`, { type: "image/jpeg" });
}
