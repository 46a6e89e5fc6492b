// @ts-check
/** The engine behind the page where there is no server: the kernels as WebAssembly, and tracks in the browser's own store. The methods are
 * those of `engine-studio.js`. */

import { Engine, isolate, models as siteModels } from "./engine.js";
import { Pictures } from "./pictures.js";
import { downloadZip } from "./vendor/client-zip.js";
import { fetchWeights } from "./weights.js";

/** @typedef {import("./engine-studio.js").Track & {created: number}} Track
 * @typedef {{pictures: Pictures, chunk: Float32Array, number: number, filled: number}} Growing a stem, and its last chunk */

const CHUNK = 1 << 19; // frames of a file of samples, interleaved
const LICENCE = "MIT, by Meta Platforms; trained on music whose terms you should know before you sell what comes out";
const STORE = "demucs-np-weights"; // weights.js keeps files there

/** Files by track and name, in the origin's private file system; in memory where the browser denies it. */
class Store {
  /** @type {Map<string, Blob>} */ #memory = new Map();
  /** @type {FileSystemDirectoryHandle | null} */ #root = null;

  async open() {
    try {
      this.#root = await (await navigator.storage.getDirectory()).getDirectoryHandle("demucs-np-tracks", { create: true });
    } catch {
      this.#root = null; // a private window: tracks are gone with it
    }
  }

  /** @param {string} id @param {string} name @param {BlobPart} content */
  async put(id, name, content) {
    if (!this.#root) return void this.#memory.set(`${id}/${name}`, new Blob([content]));
    const folder = await this.#root.getDirectoryHandle(id, { create: true });
    const file = await (await folder.getFileHandle(name, { create: true })).createWritable();
    await file.write(/** @type {any} */ (content));
    await file.close(); // the file has its new content from here on
  }

  /** @param {string} id @param {string} name @returns {Promise<Blob>} */
  async get(id, name) {
    if (!this.#root) return this.#memory.get(`${id}/${name}`) ?? new Blob();
    const folder = await this.#root.getDirectoryHandle(id);
    return (await folder.getFileHandle(name)).getFile().catch(() => new Blob());
  }

  /** @param {string} id */
  async remove(id) {
    for (const key of this.#memory.keys()) if (key.startsWith(id)) this.#memory.delete(key);
    await this.#root?.removeEntry(id, { recursive: true }).catch(() => {});
  }

  /** What earlier visits left. @returns {Promise<Track[]>} */
  async tracks() {
    const found = [];
    // @ts-ignore: an asynchronous iterator, which the library's types do not know yet
    for await (const id of this.#root?.keys() ?? []) {
      try {
        found.push(JSON.parse(await (await this.get(id, "track.json")).text()));
      } catch {
        await this.remove(id); // it was cut off before it was whole
      }
    }
    return found.sort((a, b) => a.created - b.created);
  }
}

/** The sample rate that a file's header tells, so that it is decoded as it is. @param {ArrayBuffer} file */
export function rateOf(file) {
  const view = new DataView(file);
  const text = (/** @type {number} */ at) => String.fromCharCode(...new Uint8Array(file, at, 4));
  if (file.byteLength < 64) return 44100;
  if (text(0) === "RIFF") return view.getUint32(24, true);
  if (text(0) === "fLaC") return view.getUint32(18) >>> 12;
  if (text(0) === "OggS") return text(28) === "Opus" ? 48000 : view.getUint32(40, true);
  let at = text(0).startsWith("ID3") ? 10 + [6, 7, 8, 9].reduce((size, byte) => size * 128 + view.getUint8(byte), 0) : 0;
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

export class WasmEngine {
  formats = ["wav 16", "wav 24", "wav 32"]; // browsers encode nothing else without loss
  #store = new Store();
  /** @type {Map<string, Track>} */ #tracks = new Map();
  /** @type {import("./engine-studio.js").Listener | null} */ #listener = null;
  /** @type {Track[]} */ #queue = [];
  /** @type {{id: string, abort: AbortController, stems: Map<string, Growing>} | null} */ #running = null;
  /** @type {{name: string, engine: Engine} | null} */ #loaded = null;
  #site = siteModels(); // once: later the network may be gone

  async models() {
    const cache = await globalThis.caches?.open(STORE).catch(() => null);
    const paces = JSON.parse(localStorage.getItem("paces") ?? "{}");
    return Promise.all(
      (await this.#site).map(async ({ name, stems, about, files }) => {
        const missing = [];
        for (const file of files) if (/^https?:/.test(file.address) && !(await cache?.match(new URL(`weights/${file.sha256}`, import.meta.url).href))) missing.push(file.bytes);
        const fetch = Math.ceil(missing.reduce((sum, bytes) => sum + bytes, 0) / 1e6);
        const pace = paces[name] ?? (name === "demo" ? 0.3 : (4 * files.length) / Math.min(8, navigator.hardwareConcurrency || 2));
        return { name, stems, about, fetch, licence: name === "demo" ? "MIT" : LICENCE, pace };
      }),
    );
  }

  /** @param {string} name */
  async fetchModel(name) {
    const model = (await this.#site).find((one) => one.name === name);
    const files = model?.files ?? [];
    const tell = (/** @type {number} */ part, done = false, error = null) => this.#listener?.model(name, part, done, error);
    const all = files.map((file, i) => () => fetchWeights(file, { onprogress: ({ stage, done, total }) => stage === "fetch" && tell((i + done / total) / files.length) }));
    (async () => {
      for (const one of all) await one();
      tell(1, true);
    })().catch((error) => tell(0, false, error.message));
  }

  /** @param {import("./engine-studio.js").Listener} listener */
  async listen(listener) {
    this.#listener = listener;
    await this.#store.open();
    for (const track of await this.#store.tracks()) {
      const begun = ["queued", "running"].includes(track.state);
      this.#tracks.set(track.id, track);
      listener.track(begun ? Object.assign(track, { state: "new" }) : track);
    }
    listener.connected(true);
  }

  /** @param {File} file @returns {Promise<Track>} */
  async open(file) {
    const { sampleRate, duration } = await decoded(file);
    const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    await this.#store.put(id, "original", file);
    /** @type {Track} */ const track = {
      id, name: file.name, created: Date.now(), state: "new", seconds: duration, samplerate: sampleRate, rate: 0, length: 0, ready: 0, sources: [],
      stem_channels: 2, stage: null, part: 0, seconds_left: null, error: null, took: null, wish: null, order: 0,
    }; // prettier-ignore
    this.#tracks.set(id, track);
    await this.#change(track, {});
    return track;
  }

  async demo() {
    const answer = await fetch("demo-song.flac");
    return this.open(new File([await answer.blob()], "demo song.flac"));
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
    await this.#change(track, { state: "queued", wish, order: Date.now(), error: null, ready: 0 });
    this.#queue.push(track);
    if (!this.#running) this.#work();
  }

  async #work() {
    for (let track = this.#queue.shift(); track; track = this.#queue.shift()) {
      const running = (this.#running = { id: track.id, abort: new AbortController(), stems: new Map() });
      try {
        await this.#one(track, running.abort.signal);
      } catch (error) {
        const cancelled = running.abort.signal.aborted;
        await this.#change(track, { state: cancelled ? "cancelled" : "failed", error: cancelled ? null : /** @type {Error} */ (error).message, stage: null, ready: 0 });
      }
    }
    this.#running = null;
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
    await this.#change(track, { sources: stems, rate, stem_channels: channels, length });
    for (const name of ["mix", ...stems]) this.#running?.stems.set(name, { pictures: new Pictures(rate), chunk: new Float32Array(CHUNK * channels), number: 0, filled: 0 });
    began = performance.now();
    const [shifts, overlap] = [wish.shifts ?? recipe.shifts, wish.overlap ?? recipe.overlap];
    for await (const block of engine.blocks(mix, { stems, shifts, overlap, onprogress, signal })) {
      const stop = block.start + /** @type {Float32Array[][]} */ ([...block.stems.values()])[0][0].length;
      await this.#append(track, "mix", mix.map((/** @type {Float32Array} */ channel) => channel.subarray(block.start, stop)));
      for (const [name, samples] of block.stems) await this.#append(track, name, samples);
      await this.#change(track, { ready: stop, part: stop / length });
    }
    for (const [name, growing] of this.#running?.stems ?? []) {
      growing.pictures.finish();
      await this.#store.put(track.id, `${name}.${growing.number}`, new Float32Array(growing.chunk.subarray(0, growing.filled * channels)));
      await this.#store.put(track.id, `${name}.peaks`, growing.pictures.peaks.from(0));
      await this.#store.put(track.id, `${name}.spectrogram`, growing.pictures.spectrogram.from(0));
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

  /** @param {Track} track @param {string} name @param {Float32Array[]} channels */
  async #append(track, name, channels) {
    const growing = this.#running?.stems.get(name);
    if (!growing) return;
    growing.pictures.append(channels);
    for (let i = 0; i < channels[0].length; i++) {
      for (let c = 0; c < channels.length; c++) growing.chunk[growing.filled * channels.length + c] = channels[c][i];
      if (++growing.filled < CHUNK) continue;
      await this.#store.put(track.id, `${name}.${growing.number}`, new Float32Array(growing.chunk));
      growing.number++;
      growing.filled = 0;
    }
  }

  /** @param {Track} track */
  async cancel({ id }) {
    if (this.#running?.id === id) return this.#running.abort.abort();
    const track = this.#queue.find((one) => one.id === id);
    this.#queue = this.#queue.filter((one) => one !== track);
    if (track) await this.#change(track, { state: "cancelled" });
  }

  /** @param {Track} track */
  async remove({ id }) {
    this.#tracks.delete(id);
    await this.cancel(/** @type {Track} */ ({ id }));
    await this.#store.remove(id);
    this.#listener?.removed(id);
  }

  /** @param {Track} track @param {string} stem @param {number} start @param {number} stop */
  async audio(track, stem, start, stop) {
    const channels = track.stem_channels;
    const growing = this.#running?.id === track.id ? this.#running.stems.get(stem) : undefined;
    const end = Math.min(stop, track.state === "done" ? track.length : track.ready);
    const out = new Float32Array(Math.max(0, end - start) * channels);
    for (let at = start; at < end; ) {
      const number = Math.floor(at / CHUNK);
      const [from, to] = [at - number * CHUNK, Math.min(end - number * CHUNK, CHUNK)];
      const part =
        growing && growing.number === number
          ? growing.chunk.subarray(from * channels, to * channels)
          : new Float32Array(await (await this.#store.get(track.id, `${stem}.${number}`)).slice(from * channels * 4, to * channels * 4).arrayBuffer());
      out.set(part, (at - start) * channels);
      at = number * CHUNK + to;
    }
    return out;
  }

  /** @param {Track} track @param {string} stem @param {number} start */
  async peaks(track, stem, start) {
    const growing = this.#running?.id === track.id && track.state !== "done" ? this.#running.stems.get(stem) : undefined;
    if (growing) return growing.pictures.peaks.from(start);
    return new Int8Array(await (await this.#store.get(track.id, `${stem}.peaks`)).slice(start).arrayBuffer());
  }

  /** @param {Track} track @param {string} stem @param {number} start */
  async spectrogram(track, stem, start) {
    const growing = this.#running?.id === track.id && track.state !== "done" ? this.#running.stems.get(stem) : undefined;
    if (growing) return growing.pictures.spectrogram.from(start);
    return new Uint8Array(await (await this.#store.get(track.id, `${stem}.spectrogram`)).slice(start).arrayBuffer());
  }

  /** What is to be saved, as a file of the page's own. @param {Track} track @param {import("./engine-studio.js").Saving} saving */
  async export(track, saving) {
    const name = track.name.replace(/\.\w+$/, "");
    const wanted = saving.mix ? [["what I hear", saving.mix]] : (saving.stems ?? "").split(",").map((stem) => [stem, stem]);
    const files = [];
    for (const [label, voices] of wanted) files.push({ name: `${name} - ${label}.wav`, input: await this.#file(track, voices, saving) });
    const blob = files.length === 1 ? files[0].input : await downloadZip(files).blob();
    const url = URL.createObjectURL(blob);
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    return { url, name: files.length === 1 ? files[0].name : `${name}.zip` };
  }

  /** @param {Track} track @param {string} voices @param {import("./engine-studio.js").Saving} saving */
  async #file(track, voices, { bits, rate, start, stop }) {
    const channels = [new Float32Array(stop - start), new Float32Array(stop - start)];
    for (const voice of voices.split(",")) {
      const [stem, gain = "1", pan = "0"] = voice.split(":");
      await this.#add(channels, track, stem, Number(gain), Number(pan), start);
    }
    const same = rate === "model" || track.samplerate === track.rate;
    const samples = same ? channels : await this.#resampled(track, channels);
    return wave(samples, same ? track.rate : track.samplerate, bits);
  }

  /** Add a stem to a mix, as the page's graph does: a gain, and a StereoPannerNode.
   * @param {Float32Array[]} sum @param {Track} track @param {string} stem @param {number} gain @param {number} pan @param {number} start */
  async #add([left, right], track, stem, gain, pan, start) {
    const angle = ((pan <= 0 ? pan + 1 : pan) * Math.PI) / 2;
    const [near, far] = [Math.cos(angle), Math.sin(angle)];
    const [ll, lr, rl, rr] = pan <= 0 ? [1, near, 0, far] : [near, 0, far, 1]; // to left from left, from right; to right
    const step = track.stem_channels;
    for (let at = 0; at < left.length; at += CHUNK) {
      const part = await this.audio(track, stem, start + at, start + Math.min(left.length, at + CHUNK));
      for (let i = 0; i * step < part.length; i++) {
        const [l, r] = [gain * part[i * step], gain * part[i * step + step - 1]];
        left[at + i] += pan === 0 ? l : ll * l + lr * r;
        right[at + i] += pan === 0 ? r : rl * l + rr * r;
      }
    }
  }

  /** At the song's own rate, by the engine's kernel. @param {Track} track @param {Float32Array[]} channels */
  async #resampled(track, channels) {
    const engine = this.#loaded?.engine ?? (await this.#engine(/** @type {string} */ (track.wish?.model), {}));
    return engine.resample(channels, track.rate, track.samplerate);
  }

  /** Nothing is dragged out of this page: there is no address before the file is made. @returns {null} */
  address() {
    return null;
  }
}

/** A WAV file: PCM of 16 or 24 bits, lowered where it would clip, or 32-bit float. @param {Float32Array[]} channels @param {number} rate @param {number} bits */
export function wave(channels, rate, bits) {
  const [count, length, bytes] = [channels.length, channels[0].length, bits / 8];
  const view = new DataView(new ArrayBuffer(44 + count * length * bytes));
  const text = (/** @type {number} */ at, /** @type {string} */ word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  for (const [at, word] of /** @type {[number, string][]} */ ([[0, "RIFF"], [8, "WAVEfmt "], [36, "data"]])) text(at, word);
  for (const [at, value] of [[4, view.byteLength - 8], [16, 16], [24, rate], [28, rate * count * bytes], [40, count * length * bytes]]) view.setUint32(at, value, true);
  for (const [at, value] of [[20, bits === 32 ? 3 : 1], [22, count], [32, count * bytes], [34, bits]]) view.setUint16(at, value, true);
  let peak = 0;
  for (const channel of channels) for (const sample of channel) peak = Math.max(peak, Math.abs(sample));
  const [scale, full] = [bits < 32 && peak > 1 ? 1 / (1.01 * peak) : 1, 2 ** (bits - 1) - 1];
  for (let i = 0, at = 44; i < length; i++) {
    for (let c = 0; c < count; c++, at += bytes) {
      if (bits === 32) view.setFloat32(at, Math.max(-1, Math.min(1, channels[c][i])), true);
      else {
        const value = Math.trunc(Math.fround(Math.fround(channels[c][i] * scale) * full)); // toward zero, as the command's
        if (bits === 16) view.setInt16(at, value, true);
        else {
          view.setUint16(at, value & 0xffff, true);
          view.setInt8(at + 2, value >> 16);
        }
      }
    }
  }
  return new Blob([view], { type: "audio/wav" });
}

/** Once the page is isolated, so that threads can share memory. */
export async function open() {
  await isolate();
  return new WasmEngine();
}
