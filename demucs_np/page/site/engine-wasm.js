// @ts-check
/** The engine behind the page where there is no server: the kernels as WebAssembly, and tracks in the browser's own store. The methods are
 * those of `engine-studio.js`. */

import { Engine, isolate, models as siteModels } from "./engine.js";
import { BANDS, COLUMN, PEAK, peaks, spectrogram } from "./pictures.js";
import { Mixer, render } from "./player.js";
import { downloadZip } from "./vendor/client-zip.js";
import { fetchWeights } from "./weights.js";

/** @typedef {import("./engine-studio.js").Track & {created: number, starts: number[]}} Track its samples lie block by block: `starts` are their first ones */

const LICENCE = "MIT, by Meta Platforms; trained on music whose terms you should know before you sell what comes out";
const STORE = "demucs-np-weights"; // weights.js keeps files there

/** Files by track and name, in the origin's private file system; in memory where the browser denies it. */
class Store {
  /** @type {Map<string, Blob>} */ #memory = new Map();
  /** Null in a private window: tracks are gone with it. */
  #root = (async () => (await navigator.storage.getDirectory()).getDirectoryHandle("demucs-np-tracks", { create: true }))().catch(() => null);

  /** @param {string} id @param {string} name @param {BlobPart} content */
  async put(id, name, content) {
    const folder = await (await this.#root)?.getDirectoryHandle(id, { create: true });
    if (!folder) return void this.#memory.set(`${id}/${name}`, new Blob([content]));
    const file = await (await folder.getFileHandle(name, { create: true })).createWritable();
    await file.write(/** @type {any} */ (content));
    await file.close(); // the file has its new content from here on
  }

  /** @param {string} id @param {string} name @returns {Promise<Blob>} */
  async get(id, name) {
    const folder = await (await this.#root)?.getDirectoryHandle(id);
    return folder ? (await folder.getFileHandle(name)).getFile() : /** @type {Blob} */ (this.#memory.get(`${id}/${name}`));
  }

  /** @param {string} id */
  async remove(id) {
    for (const key of this.#memory.keys()) if (key.startsWith(id)) this.#memory.delete(key);
    await (await this.#root)?.removeEntry(id, { recursive: true }).catch(() => {});
  }

  /** What earlier visits left. @returns {Promise<Track[]>} */
  async tracks() {
    const found = [];
    // @ts-ignore: an asynchronous iterator, which the library's types do not know yet
    for await (const id of (await this.#root)?.keys() ?? []) {
      try {
        found.push(JSON.parse(await (await this.get(id, "track.json")).text()));
      } catch {
        await this.remove(id); // it was cut off before it was whole
      }
    }
    return found.sort((a, b) => a.created - b.created);
  }
}

/** The sample rate that a file tells, so that it is decoded as it is. @param {ArrayBuffer} file */
function rateOf(file) {
  const view = new DataView(file);
  const text = new TextDecoder("latin1").decode(file);
  if (text.startsWith("RIFF")) return view.getUint32(24, true);
  if (text.startsWith("fLaC")) return view.getUint32(18) >>> 12;
  if (/^(OggS|\x1aE)/.test(text) && text.includes("OpusHead")) return 48000;
  if (text.startsWith("OggS")) return view.getUint32(40, true);
  if (text.startsWith("ftyp", 4)) return view.getUint16(text.indexOf("mp4a") + 28);
  let at = text.startsWith("ID3") ? 10 + [6, 7, 8, 9].reduce((size, byte) => size * 128 + view.getUint8(byte), 0) : 0;
  for (const stop = Math.min(file.byteLength - 4, at + 65536); at < stop; at++) {
    const head = view.getUint32(at); // an MPEG frame: eleven bits of sync, version, layer, ..., rate
    const [version, rate] = [(head >>> 19) & 3, (head >>> 10) & 3];
    if (head >>> 21 === 2047 && version !== 1 && ((head >>> 17) & 3) === 1 && rate < 3) return [44100, 48000, 32000][rate] / [4, 0, 2, 1][version];
  }
  return 44100;
}

/** @param {Blob} file */
async function decoded(file) {
  const bytes = await file.arrayBuffer();
  try {
    return await new OfflineAudioContext(1, 1, rateOf(bytes)).decodeAudioData(bytes);
  } catch {
    throw new Error("the browser cannot decode it; is it audio? Export it as WAV, FLAC or MP3");
  }
}

/** @param {AudioBuffer} audio */
const channelsOf = (audio) => Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i));

class WasmEngine {
  #store = new Store();
  #encoder = new Worker(new URL("./encoder.js", import.meta.url)); // at once: later the network may be gone
  /** @type {Map<string, Track>} */ #tracks = new Map();
  /** @type {import("./engine-studio.js").Listener | null} */ #listener = null;
  /** @type {Map<string, AbortController>} */ #aborts = new Map();
  /** @type {Promise<unknown>} one track after the other */ #queue = Promise.resolve();
  /** @type {{name: string, engine: Engine} | null} */ #loaded = null;
  #site = siteModels(); // once, too

  async models() {
    const cache = await globalThis.caches?.open(STORE).catch(() => null);
    const paces = JSON.parse(localStorage.getItem("paces") ?? "{}");
    return Promise.all(
      (await this.#site).map(async ({ name, stems, about, files }) => {
        let missing = 0;
        for (const file of files) if (/^https?:/.test(file.address) && !(await cache?.match(new URL(`weights/${file.sha256}`, import.meta.url).href))) missing += file.bytes;
        const pace = paces[name] ?? (name === "demo" ? 0.3 : (4 * files.length) / Math.min(8, navigator.hardwareConcurrency || 2));
        return { name, stems, about, fetch: Math.ceil(missing / 1e6), licence: name === "demo" ? "MIT" : LICENCE, pace };
      }),
    );
  }

  /** @param {string} name */
  async fetchModel(name) {
    const files = (await this.#site).find((one) => one.name === name)?.files ?? [];
    const tell = (/** @type {number} */ part, error = null) => this.#listener?.model(name, part, error);
    const all = async () => {
      for (const [i, file] of files.entries()) {
        await fetchWeights(file, { onprogress: ({ stage, done, total }) => stage === "fetch" && tell((0.99 * (i + done / total)) / files.length) });
      }
      tell(1);
    };
    all().catch((error) => tell(0, error.message));
  }

  /** @param {import("./engine-studio.js").Listener} listener */
  async listen(listener) {
    this.#listener = listener;
    const waiting = setTimeout(listener.trouble, 500, "This page is open in another tab. Close that one; this one goes on by itself then.");
    this.#queue = new Promise((mine) => navigator.locks?.request("demucs-np-tracks", () => (mine(null), new Promise(() => {}))) ?? mine(null)); // for good
    await this.#queue;
    clearTimeout(waiting);
    listener.trouble("");
    const tracks = (await this.#store.tracks()).filter(({ id }) => !this.#tracks.has(id));
    for (const track of tracks) {
      this.#tracks.set(track.id, track);
      if (track.state === "running") Object.assign(track, { state: "queued", ready: 0 }); // it was cut off
      listener.track({ ...track });
    }
    for (const track of tracks.sort((a, b) => a.order - b.order)) if (track.state === "queued") this.#enqueue(track);
  }

  /** @param {File} file @returns {Promise<Track>} */
  async open(file) {
    const { sampleRate, duration } = await decoded(file);
    const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    await this.#store.put(id, "original", file);
    /** @type {Track} */ const track = {
      id, name: file.name, created: Date.now(), state: "new", seconds: duration, samplerate: sampleRate, rate: 0, length: 0, ready: 0, sources: [],
      stem_channels: 2, stage: null, part: 0, seconds_left: null, error: null, took: null, wish: null, order: 0, starts: [],
    }; // prettier-ignore
    this.#tracks.set(id, track);
    await this.#change(track, {});
    return track;
  }

  async demo() {
    return this.open(new File([await (await fetch("demo-song.flac")).blob()], "demo song.flac"));
  }

  /** Set fields, keep them unless they only say how far it is, and tell. @param {Track} track @param {Partial<Track>} values */
  async #change(track, values) {
    Object.assign(track, values);
    if (!this.#tracks.has(track.id)) return;
    this.#listener?.track({ ...track });
    if (!("part" in values)) await this.#store.put(track.id, "track.json", JSON.stringify(track));
  }

  /** @param {Track} track @param {import("./engine-studio.js").Wish} wish */
  async separate({ id }, wish) {
    const track = /** @type {Track} */ (this.#tracks.get(id));
    await this.#change(track, { state: "queued", wish, order: Date.now(), error: null, ready: 0, sources: [], rate: 0, length: 0 });
    this.#enqueue(track);
  }

  /** @param {Track} track */
  #enqueue(track) {
    const abort = new AbortController();
    this.#aborts.set(track.id, abort);
    this.#queue = this.#queue.then(async () => {
      try {
        if (!abort.signal.aborted) await this.#one(track, abort.signal);
      } catch (error) {
        const cancelled = abort.signal.aborted;
        await this.#change(track, { state: cancelled ? "cancelled" : "failed", error: cancelled ? null : /** @type {Error} */ (error).message, stage: null, ready: 0 });
      }
    });
  }

  /** @param {Track} track @param {AbortSignal} signal */
  async #one(track, signal) {
    const wish = /** @type {import("./engine-studio.js").Wish} */ (track.wish);
    await this.#change(track, { state: "running" });
    let began = performance.now();
    const onprogress = (/** @type {import("./weights.js").Progress} */ { stage, done, total }) => {
      const part = total ? done / total : 0;
      const took = (performance.now() - began) / 1000;
      const left = stage === "separate" && part > 0.02 ? (took / part) * (1 - part) : null;
      const name = { fetch: "fetching", prepare: "loading", separate: "separating", note: null }[stage];
      if (name) this.#change(track, { stage: name, part, seconds_left: left });
    };
    const engine = await this.#engine(wish.model, { onprogress, signal });
    const { samplerate: rate, channels, recipe } = engine.model;
    const audio = await decoded(await this.#store.get(track.id, "original"));
    const mix = await engine.convert(channelsOf(audio), audio.sampleRate, signal);
    const length = mix[0].length;
    const stems = wish.stems ?? engine.stems;
    await this.#change(track, { sources: stems, rate, stem_channels: channels, length, starts: [] });
    began = performance.now();
    const [shifts, overlap] = [wish.shifts ?? recipe.shifts, wish.overlap ?? recipe.overlap];
    for await (const block of engine.blocks(mix, { stems, shifts, overlap, onprogress, signal })) {
      const stop = block.start + /** @type {Float32Array[][]} */ ([...block.stems.values()])[0][0].length;
      const all = [...mix.map((channel) => channel.slice(block.start, stop)), ...[...block.stems.values()].flat()];
      await this.#store.put(track.id, `block-${track.starts.length}`, new Blob(/** @type {any} */ (all)));
      await this.#change(track, { ready: stop, part: stop / length, starts: [...track.starts, block.start] });
    }
    const took = (performance.now() - began) / 1000;
    const paces = JSON.parse(localStorage.getItem("paces") ?? "{}");
    localStorage.setItem("paces", JSON.stringify({ ...paces, [wish.model]: (took / (length / rate)) * (1 - overlap) / Math.max(1, shifts) }));
    await this.#change(track, { state: "done", stage: null, seconds_left: null, took, ready: length });
  }

  /** The model, kept for the next track. @param {string} name @param {import("./engine.js").OpenOptions} options */
  async #engine(name, options) {
    if (this.#loaded?.name !== name) {
      this.#loaded?.engine.close();
      this.#loaded = null;
      this.#loaded = { name, engine: await Engine.open({ model: name, ...options }) };
    }
    return this.#loaded.engine;
  }

  /** @param {Track} track */
  async cancel({ id }) {
    const track = this.#tracks.get(id);
    this.#aborts.get(id)?.abort();
    if (track?.state === "queued") await this.#change(track, { state: "cancelled" });
  }

  /** @param {Track} track */
  async remove({ id }) {
    this.#tracks.delete(id);
    this.#aborts.get(id)?.abort();
    await this.#store.remove(id);
    this.#listener?.removed(id);
  }

  /** @param {Track} track @param {string} stem @param {number} start @param {number} stop */
  async audio(track, stem, start, stop) {
    const { starts, ready, sources, stem_channels } = /** @type {Track} */ (this.#tracks.get(track.id));
    const end = Math.min(stop, ready);
    const out = Array.from({ length: stem_channels }, () => new Float32Array(Math.max(0, end - start)));
    const row = ["mix", ...sources].indexOf(stem) * stem_channels;
    for (let block = starts.findLastIndex((first) => first <= start); starts[block] < end; block++) {
      const first = starts[block];
      const count = (starts[block + 1] ?? ready) - first;
      const [from, to] = [Math.max(start, first), Math.min(end, first + count)];
      const file = await this.#store.get(track.id, `block-${block}`);
      for (const [c, channel] of out.entries()) {
        const at = (row + c) * count - first;
        channel.set(new Float32Array(await file.slice(4 * (at + from), 4 * (at + to)).arrayBuffer()), from - start);
      }
    }
    return out;
  }

  /** @param {Track} track @param {string} stem @param {"peaks" | "spectrogram"} kind @param {number} start */
  async picture(track, stem, kind, start) {
    const { ready, length, rate } = /** @type {Track} */ (this.#tracks.get(track.id));
    const size = kind === "peaks" ? PEAK / 2 : COLUMN / BANDS; // samples of a byte
    const channels = await this.audio(track, stem, start * size, ready < length ? ready - (ready % COLUMN) : length);
    return kind === "peaks" ? peaks(channels) : spectrogram(channels, rate);
  }

  /** What is to be saved, as a file of the page's own. @param {Track} track @param {import("./engine-studio.js").Saving} saving */
  async export(track, { stems, mix, format, bits, rate, start, stop }) {
    const title = track.name.replace(/\.\w+$/, "");
    const wanted = rate === "model" ? track.rate : track.samplerate;
    const files = [];
    for (const [label, voices] of mix ? [["what I hear", mix]] : (stems ?? "").split(",").map((stem) => [stem, stem])) {
      let channels = await render(/** @type {any} */ (this), track, Mixer.of(track.sources, voices), { start, stop });
      if (wanted !== track.rate) {
        const kernels = this.#loaded?.engine ?? (await this.#engine(/** @type {string} */ (track.wish?.model), {}));
        channels = /** @type {any} */ (await kernels.resample(channels, track.rate, wanted));
      }
      files.push({ name: `${title} - ${label}.${format}`, input: await this.#encoded(channels, wanted, format, bits) });
    }
    const [name, blob] = files.length === 1 ? [files[0].name, files[0].input] : [`${title}.zip`, await downloadZip(files).blob()];
    const url = URL.createObjectURL(blob);
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    return { url, name };
  }

  /** A file of samples. @param {Float32Array[]} channels @param {number} rate @param {string} format @param {number} bits @returns {Promise<Blob>} */
  #encoded(channels, rate, format, bits) {
    const { port1, port2 } = new MessageChannel();
    this.#encoder.postMessage({ channels, rate, format, bits }, [port2]);
    return new Promise((resolve, reject) => {
      port1.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data));
    });
  }
}

await isolate(); // so that threads can share memory
export const engine = new WasmEngine();
