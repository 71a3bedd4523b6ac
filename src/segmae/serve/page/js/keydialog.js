// Asks for the API key when the service wants one.

import { $ } from "./dom.js";

/** @param {boolean} wrong whether a key was refused. Resolves to the key, or to null. */
export function askKey(wrong) {
  const dialog = $("#key-dialog"), input = $("#key-input");
  $("#key-said").textContent = wrong ? "The server does not know this key." : "";
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    const form = $("#key-form");
    let key = null;
    const take = () => { key = input.value.trim() || null; };
    form.addEventListener("submit", take);
    $("#key-cancel").onclick = () => dialog.close();
    dialog.addEventListener("close", () => {
      form.removeEventListener("submit", take);
      resolve(key);
    }, { once: true });
  });
}
