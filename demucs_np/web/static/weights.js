// @ts-check
import { aborted, DemucsError, heed } from "./errors.js";

const STORE = "demucs-np-weights";
const ATTEMPTS = 5, PAUSE = 500; // ms before the second attempt, then twice as long each time

/** @typedef {{ stage: "fetch" | "prepare" | "separate" | "note", done: number, total: number, message?: string }} Progress */

/** A file beside engine.js: read from disk in Node. @param {string | URL} name */
export async function resource(name) {
  const url = new URL(name, import.meta.url);
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    try {
      const data = await readFile(url);
      return data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
    } catch (error) {
      throw new DemucsError("network", `${url.pathname} cannot be read (${/** @type {any} */ (error).code})`, "build the site again");
    }
  }
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new DemucsError("network", `${url} cannot be fetched (${/** @type {Error} */ (error).message})`, "look at the connection and try again");
  }
  if (!response.ok) throw new DemucsError("network", `${url} cannot be fetched (HTTP status ${response.status})`, "build the site again");
  return response.arrayBuffer();
}

/** @param {string} name */
export const jsonResource = async name => JSON.parse(new TextDecoder().decode(await resource(name)));

/** SHA-256 as 64 hexadecimal digits; null where the page has no `crypto.subtle` (plain HTTP). @param {BufferSource} data */
export async function sha256(data) {
  if (!globalThis.crypto?.subtle) return null;
  return Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", data)), b => b.toString(16).padStart(2, "0")).join("");
}

/**
 * A weights file: from the browser's store or the network; checked, and stored.
 * @param {{ address: string, bytes: number, sha256: string }} file
 * @param {{ cache?: boolean, onprogress?: (p: Progress) => void, signal?: AbortSignal }} options
 */
export async function fetchWeights(file, { cache = true, onprogress = () => {}, signal }) {
  const note = (/** @type {string} */ message) => onprogress({ stage: "note", done: 0, total: 0, message });
  const url = new URL(file.address, import.meta.url);
  if (url.protocol === "file:") return checked(await resource(url), file, note);
  const key = new URL(`weights/${file.sha256}`, import.meta.url).href;
  const store = cache ? await opened(note) : null;
  const kept = await store?.match(key).then(r => r?.arrayBuffer()).catch(() => undefined);
  if (kept) {
    const digest = await sha256(kept);
    if (digest === null || digest === file.sha256) {
      onprogress({ stage: "fetch", done: file.bytes, total: file.bytes });
      return kept;
    }
    await store?.delete(key);
    note("the stored weights were damaged and are fetched again");
  }
  const data = await checked(await download(url, file.bytes, onprogress, signal), file, note);
  await store?.put(key, new Response(data.slice(0))).catch(error => note(`the weights cannot be stored (${error.message}): they are fetched again next time`));
  return data;
}

/** A file of weights that the caller names: nothing is known of it. @param {string | URL} address @param {{ onprogress?: (p: Progress) => void, signal?: AbortSignal }} options */
export async function fetchAddress(address, { onprogress = () => {}, signal }) {
  const url = new URL(address, globalThis.location?.href ?? import.meta.url);
  return url.protocol === "file:" ? resource(url) : download(url, null, onprogress, signal);
}

/** @param {(message: string) => void} note */
async function opened(note) {
  if (!globalThis.caches) {
    if (globalThis.location) note("this page has no store: the weights are fetched again next time");
    return null;
  }
  return caches.open(STORE).catch(error => {
    note(`the browser's store cannot be used (${error.message}): the weights are fetched again next time`);
    return null;
  });
}

/** @param {ArrayBuffer} data @param {{ address: string, sha256: string }} file @param {(message: string) => void} note */
async function checked(data, file, note) {
  const digest = await sha256(data);
  if (digest === null) note("the weights cannot be checked: this page is not served over HTTPS");
  else if (digest !== file.sha256)
    throw new DemucsError("weights", `${file.address} is damaged: its SHA-256 is ${digest.slice(0, 8)}…, not ${file.sha256.slice(0, 8)}…`, "try again; if it stays so, build the site again");
  return data;
}

/**
 * The bytes of an address; what broke is resumed.
 * @param {URL} url @param {number | null} expected bytes; null: as many as the server says
 * @param {(p: Progress) => void} onprogress @param {AbortSignal | undefined} signal
 */
async function download(url, expected, onprogress, signal) {
  let data = new Uint8Array(expected ?? 0), have = 0, total = expected;
  for (let attempt = 1; ; attempt++) {
    const before = have;
    try {
      const response = await fetch(url, { headers: have ? { Range: `bytes=${have}-` } : {}, signal, cache: "no-store" });
      if (!response.ok) throw final(`HTTP status ${response.status}`, response.status < 500 && ![408, 416, 429].includes(response.status));
      if (have && response.status !== 206) have = 0; // not the rest, but all again
      if (total === null) {
        total = Number(response.headers.get("Content-Length"));
        if (!(total > 0 && total < 2 ** 31)) throw final("the server does not say how long it is", true);
        data = new Uint8Array(total);
      }
      const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
      for (let part; !(part = await reader.read()).done; ) {
        if (have + part.value.length > total) throw final(`it is longer than the ${total} bytes it should have`, true);
        data.set(part.value, have);
        have += part.value.length;
        onprogress({ stage: "fetch", done: have, total });
      }
      if (have === total) return data.buffer;
      throw new Error(`${have} of ${total} bytes came`);
    } catch (error) {
      if (signal?.aborted) throw aborted();
      const failure = /** @type {Error & { final?: boolean }} */ (error);
      if (have > before) attempt = 1; // it goes on
      if (failure.final || attempt >= ATTEMPTS) throw new DemucsError("network", `${url} cannot be fetched (${failure.message})`, "look at the connection and try again");
    }
    await new Promise(done => setTimeout(done, PAUSE * 2 ** (attempt - 1)));
    heed(signal);
  }
}

/** @param {string} message @param {boolean} final whether to try again makes no sense */
const final = (message, final) => Object.assign(new Error(message), { final });
