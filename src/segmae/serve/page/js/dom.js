// The few helpers that every part of the page uses.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An element with properties and children: make("li", {className: "card"}, "text"). */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

let toastTimer = 0;

/** Tell screen readers, politely. */
export function say(text) {
  $("#said").textContent = text;
}

/** Show a short line for some seconds, and tell screen readers. */
export function toast(text) {
  const box = $("#toast");
  box.textContent = text;
  box.hidden = false;
  say(text);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { box.hidden = true; }, 6000);
}

export const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
