// Calls of the service: the key, waiting while it is busy, and errors as sentences.

const STORED = "segmae-key";
const TRIES = 6; // while the service is busy
const LONGEST_WAIT = 30; // seconds

let askKey = null; // (wrong) => Promise of a key, or of null where the person declines
let asked = null; // the question under way: requests at the same time share it

export function onKeyNeeded(ask) {
  askKey = ask;
}

export class ServiceError extends Error {
  constructor(message, status = 0, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/**
 * Send a multipart form and return the Response.
 * @param {string} path
 * @param {object} fields name -> text, File, Blob or a list of them; undefined is left out
 * @param {{signal?: AbortSignal, onWait?: (seconds: number) => void}} options
 */
export function post(path, fields, options = {}) {
  return call(path, "POST", () => form(fields), options);
}

export async function getJson(path, options = {}) {
  return (await call(path, "GET", () => undefined, options)).json();
}

export const get = (path, options = {}) => call(path, "GET", () => undefined, options);
export const remove = (path) => call(path, "DELETE", () => undefined, {});

function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one === undefined || one === null) continue;
      if (one instanceof Blob) data.append(name, one, one.name || name);
      else data.append(name, String(one));
    }
  }
  return data;
}

async function call(path, method, body, { signal, onWait }) {
  for (let attempt = 1; ; attempt += 1) {
    const key = sessionStorage.getItem(STORED);
    const response = await send(path, { method, body: body(), signal, headers: key ? { "X-API-Key": key } : {} });
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status === 401 && await gotKey(key)) continue;
    const wait = Number(response.headers.get("Retry-After"));
    if ((response.status === 429 || response.status === 503) && wait && attempt < TRIES) {
      const seconds = Math.min(wait, LONGEST_WAIT);
      onWait?.(seconds);
      await sleep(seconds * 1000, signal);
      continue;
    }
    throw error;
  }
}

async function send(path, request) {
  try {
    return await fetch(path, { ...request, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service does not answer. Check that segmae serve runs, then try again.");
  }
}

async function errorOf(response) {
  try {
    const { error } = await response.json();
    return new ServiceError(sentence(error.message), response.status, error.code);
  } catch {
    return new ServiceError(`The service answered with the status ${response.status}.`, response.status);
  }
}

function sentence(message) {
  const text = message.trim();
  const first = /^[a-z]+ /.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

async function gotKey(used) {
  if (sessionStorage.getItem(STORED) !== used) return true; // another request got one meanwhile
  asked ??= askKey(Boolean(used)).finally(() => { asked = null; });
  const key = await asked;
  if (key) sessionStorage.setItem(STORED, key);
  else sessionStorage.removeItem(STORED);
  return Boolean(key);
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
