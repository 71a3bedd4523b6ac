// How photographs come in: chosen, dropped (files and folders) or pasted. Each way ends in one list of files.

import { $ } from "./dom.js";

const NAMES = /\.(jpe?g|png|bmp|gif|webp|tiff?|dcm|dicom)$/i;
const HIDDEN = /(^|\/)\./; // .DS_Store and its like

/** @param {(files: File[], from: string) => void} receive */
export function takeIn(receive) {
  for (const id of ["#pick-files", "#pick-camera"]) {
    $(id).addEventListener("change", (event) => {
      const files = [...event.target.files];
      event.target.value = ""; // so that the same file can be chosen again
      if (files.length) receive(files, "files");
    });
  }
  $("#pick-folder").addEventListener("change", (event) => {
    const files = [...event.target.files].filter((file) => isPhotograph(file, file.webkitRelativePath));
    event.target.value = "";
    receive(inOrder(files), "folder");
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    receive(files, "files");
  });
  takeDrops(receive);
}

function takeDrops(receive) {
  const veil = $("#drop-veil");
  let depth = 0;
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (!holdsFiles(event)) return;
    depth += 1;
    veil.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (holdsFiles(event) && --depth <= 0) veil.hidden = true;
  });
  document.addEventListener("dragover", (event) => {
    if (holdsFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", async (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.some((entry) => entry.isDirectory)) {
      receive([...event.dataTransfer.files], "files");
      return;
    }
    const lists = await Promise.all(entries.map(filesOf));
    receive(inOrder(lists.flat()), "folder");
  });
}

/** The photographs in a dropped entry, folders within folders included. */
async function filesOf(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
    return isPhotograph(file, entry.fullPath) ? [file] : [];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives some hundred entries at a time
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!some.length) break;
    found.push(...await Promise.all(some.map(filesOf)));
  }
  return found.flat();
}

const isPhotograph = (file, path) => !HIDDEN.test(path) && (file.type.startsWith("image/") || NAMES.test(file.name));
const inOrder = (files) => files.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
