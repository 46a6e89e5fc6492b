// @ts-check
/**
 * Demucs in JavaScript: the package's own kernels as WebAssembly. Browsers, and Node from version 20 on; no dependencies.
 *
 * @typedef {import("./weights.js").Progress} Progress
 * @typedef {{ model?: string | URL | ArrayBuffer | ArrayBufferView, threads?: number, cache?: boolean, relaxed?: boolean, profile?: boolean, onprogress?: (p: Progress) => void,
 *   signal?: AbortSignal }} OpenOptions
 * @typedef {{ sampleRate?: number, stems?: string[], overlap?: number, shifts?: number, seed?: number, normalize?: boolean,
 *   onprogress?: (p: Progress) => void, signal?: AbortSignal }} SeparateOptions
 * @typedef {{ shifts: number, overlap: number, window: "triangle" | "flat", normalize: boolean }} Recipe
 * @typedef {{ name: string, about: string, stems: string[], samplerate: number, channels: number, recipe: Recipe, tape: string,
 *   weights: number[][], files: { address: string, bytes: number, sha256: string }[] }} Model one of models.json
 * @typedef {{ models: Model[], modules: Record<string, string>, order: string[], defaults: Record<string, any>, tapes: { file: string, config: Record<string, any> }[] }} Site
 */
import { Crew } from "./crew.js";
import { DemucsError, heed } from "./errors.js";
import { headerOf } from "./safetensors.js";
import { fetchAddress, fetchWeights, jsonResource, resource, sha256 } from "./weights.js";
import { blocks } from "./windows.js";

export { DemucsError };
export { isolate } from "./isolate.js";

// One function with one SIMD instruction; the second with a relaxed one.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const RELAXED = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11];
const node = typeof process === "undefined" ? Infinity : parseInt(process.versions?.node ?? "Infinity", 10) || Infinity;
const FASTEST = 768000; // Hz, of sound
const can = (/** @type {number[]} */ bytes) => WebAssembly.validate(new Uint8Array(bytes));

/** @returns {Promise<Site>} */
const site = () => jsonResource("./models.json");

/** The models of the site. @returns {Promise<Model[]>} */
export const models = async () => (await site()).models;

/** Whether threads can share memory. */
export const isolated = () => (typeof WorkerGlobalScope === "undefined" && typeof window === "undefined" ? typeof SharedArrayBuffer !== "undefined" : !!globalThis.crossOriginIsolated);

export class Engine {
  /** @param {Model} model @param {Crew} crew @param {any} tape @param {number} threads @param {OpenOptions} options */
  constructor(model, crew, tape, threads, options) {
    this.model = model;
    this.threads = threads;
    this.times = /** @type {{ kernel: string, ms: number }[] | null} */ (null); // of the last segment, with `profile`
    this._crew = crew;
    this._tape = tape;
    this._options = options;
    this._loaded = /** @type {Map<number, number>} */ (new Map()); // member -> its number in memory
    this._loading = Promise.resolve();
  }

  get stems() {
    return this.model.stems;
  }

  /** Bytes of the memory that kernels work in. */
  get memory() {
    return this._crew.bytes;
  }

  /**
   * An engine with one model: one of the site by its name, or a safetensors file, as an address or as its bytes, whose configuration a
   * tape of the site has. Weights are fetched when they are first needed, or here if there is one file.
   * @param {OpenOptions} options
   */
  static async open(options = {}) {
    const { model: wanted = "htdemucs", onprogress = () => {}, signal, profile = false } = options;
    if (node < 20) throw new DemucsError("node", `this is Node ${node}`, "take 20 or later");
    if (!can(SIMD)) throw new DemucsError("simd", "this browser has no WebAssembly SIMD", "take a current one: Chrome, Edge, Firefox or Safari 16.4");
    const { model, modules, given } = await find(wanted, options);
    const tape = await jsonResource(`./${model.tape}`);
    heed(signal);
    const threads = threadsFor(options.threads, onprogress);
    const relaxed = options.relaxed ?? can(RELAXED);
    if (relaxed && !can(RELAXED)) throw new DemucsError("simd", "this browser has no relaxed SIMD", "leave `relaxed` out");
    const name = relaxed ? "kernels-relaxed.wasm" : "kernels.wasm";
    const code = await resource(`./${name}`), digest = await sha256(code);
    if ((digest && digest !== modules[name]) || tape.modules[name] !== modules[name])
      throw new DemucsError("tape", `the tape of ${model.name} is for other kernels than ${name}`, "build the site again with `demucs-np web build`");
    const crew = await Crew.start(await WebAssembly.compile(code), tape, threads, profile);
    const engine = new Engine(model, crew, tape, threads, options);
    try {
      if (given) await engine._put(0, given, onprogress, signal);
      else if (model.files.length === 1) await engine._need([0], { onprogress, signal });
      return engine;
    } catch (error) {
      engine.close();
      throw error;
    }
  }

  /**
   * Separate a track: channels of equal length at `sampleRate` -> for each stem its channels at the model's rate.
   * @param {Float32Array[]} channels @param {SeparateOptions} [options] @returns {Promise<Map<string, Float32Array[]>>}
   */
  async separate(channels, options = {}) {
    const parts = [];
    let length = 0;
    for await (const block of this.blocks(channels, options)) {
      parts.push(block);
      length = block.start + block.stems.values().next().value[0].length;
    }
    const names = [...parts[0].stems.keys()], count = this.model.channels;
    const out = new Map(names.map(name => [name, Array.from({ length: count }, () => new Float32Array(length))]));
    for (const { start, stems } of parts) for (const [name, stem] of stems) stem.forEach((x, c) => /** @type {Float32Array[]} */ (out.get(name))[c].set(x, start));
    return out;
  }

  /**
   * The same in blocks that follow each other: `start` in samples at the model's rate. Memory does not grow with the track.
   * @param {Float32Array[]} channels @param {SeparateOptions} [options]
   * @returns {AsyncGenerator<{ start: number, stems: Map<string, Float32Array[]> }, void, void>}
   */
  async *blocks(channels, { sampleRate, stems = this.stems, overlap, shifts, seed = 0, normalize, onprogress = () => {}, signal } = {}) {
    const { model, _tape: tape } = this, recipe = model.recipe;
    const options = {
      indices: checkedStems(stems, model), overlap: overlap ?? recipe.overlap, shifts: shifts ?? recipe.shifts, seed,
      flat: recipe.window === "flat", normalize: normalize ?? recipe.normalize,
    };
    checkOptions(options, tape.length);
    checkTrack(channels, model.channels);
    heed(signal);
    const track = await this.convert(channels, sampleRate ?? model.samplerate, signal);
    if (track[0].length < 2) throw new DemucsError("audio", `the track has ${track[0].length} samples at ${model.samplerate} Hz`, "give it more");
    const members = model.weights.flatMap((row, i) => (options.indices.some(s => row[s]) ? [i] : []));
    await this._need(members, { onprogress, signal });
    let done = 0, total = 0;
    const shape = { sources: model.stems, samplerate: model.samplerate, channels: model.channels, segment: tape.length, weights: model.weights };
    const run = async (/** @type {number} */ member, /** @type {Float32Array} */ input) => {
      const request = { type: "segment", member: this._loaded.get(member), input };
      const onpart = (/** @type {number} */ part) => onprogress({ stage: "separate", done: done + part, total });
      const { output, times } = await this._crew.request(request, { signal, transfer: [input.buffer], onpart });
      if (times) this.times = tape.calls.map((/** @type {number[]} */ call, /** @type {number} */ i) => ({ kernel: tape.kernels[call[0]][0], ms: times[i] }));
      onprogress({ stage: "separate", done: ++done, total });
      return output;
    };
    const onplan = (/** @type {number} */ count) => onprogress({ stage: "separate", done, total: (total = count) });
    for await (const block of blocks(shape, track, options, run, onplan)) {
      heed(signal);
      if (!block.stems.every(stem => stem.every(finite))) throw new DemucsError("weights", "the model made NaN or infinite samples", "its weights are damaged: fetch them again");
      yield { start: block.start, stems: new Map(stems.map((name, s) => [name, block.stems[s]])) };
    }
  }

  /** End the threads and give the memory back. What is being separated fails. */
  close() {
    this._crew.close();
  }

  /**
   * A track as the model hears it: its channels, at its rate.
   * @param {Float32Array[]} channels @param {number} rate @param {AbortSignal} [signal] @returns {Promise<Float32Array[]>}
   */
  async convert(channels, rate, signal) {
    const { channels: wanted, samplerate } = this.model;
    let track = channels.slice(0, wanted);
    if (channels.length === 1) track = Array.from({ length: wanted }, () => channels[0]);
    if (wanted === 1 && channels.length > 1) track = [mean(channels)];
    if (channels.length > 1) return this.resample(track, rate, samplerate, signal);
    const [out] = await this.resample(track.slice(0, 1), rate, samplerate, signal);
    return track.map(() => out);
  }

  /**
   * Channels at another rate, by the filter of the models.
   * @param {Float32Array[]} channels @param {number} from Hz @param {number} to Hz @param {AbortSignal} [signal] @returns {Promise<Float32Array[]>}
   */
  async resample(channels, from, to, signal) {
    for (const rate of [from, to])
      if (!(Number.isInteger(rate) && rate > 0 && rate <= FASTEST)) throw new DemucsError("usage", `a sample rate is ${rate}`, `give a whole number of hertz, at most ${FASTEST}`);
    if (from === to) return channels;
    const divisor = gcd(from, to);
    const { channels: out } = await this._crew.request({ type: "resample", channels, old: from / divisor, fresh: to / divisor }, { signal });
    return out;
  }

  /** Have the weights of these members in memory. @param {number[]} members @param {{ onprogress: (p: Progress) => void, signal?: AbortSignal }} options */
  _need(members, { onprogress, signal }) {
    const loading = this._loading.then(async () => {
      for (const member of members) {
        if (this._loaded.has(member)) continue;
        const data = await fetchWeights(this.model.files[member], { cache: this._options.cache, onprogress, signal });
        heed(signal);
        await this._put(member, data, onprogress, signal);
      }
    });
    this._loading = loading.catch(() => {});
    return loading;
  }

  /** @param {number} member @param {ArrayBuffer} file @param {(p: Progress) => void} onprogress @param {AbortSignal | undefined} signal */
  async _put(member, file, onprogress, signal) {
    const onpart = (/** @type {number} */ part) => onprogress({ stage: "prepare", done: part, total: 1 });
    onpart(0);
    const { bytes } = await this._crew.request({ type: "load", file }, { transfer: [file], onpart, signal });
    onpart(1);
    this._crew.bytes = bytes;
    this._loaded.set(member, this._loaded.size);
  }
}

/**
 * A model, and the hashes of the site's modules.
 * @param {string | URL | ArrayBuffer | ArrayBufferView} wanted @param {OpenOptions} options @returns {Promise<{ model: Model, modules: Record<string, string>, given?: ArrayBuffer }>}
 */
async function find(wanted, options) {
  const bytes = wanted instanceof ArrayBuffer || ArrayBuffer.isView(wanted) ? bytesOf(wanted) : undefined;
  if (typeof wanted !== "string" && !(wanted instanceof URL) && !bytes) throw new DemucsError("usage", `the model is ${wanted}`, "give a name, an address, or the bytes of a file");
  const all = await site(), { modules } = all;
  const model = all.models.find(m => m.name === wanted);
  if (model) return { model, modules };
  if (typeof wanted === "string" && !/^[a-z]+:|\.safetensors$|^[./]/i.test(wanted))
    throw new DemucsError("usage", `there is no model ${wanted} on this site, but ${all.models.map(m => m.name).join(", ")}`, `build it with \`demucs-np web build -n ${wanted}\``);
  const given = bytes ?? (await fetchAddress(/** @type {string | URL} */ (wanted), options));
  return { model: await described(given, all), modules, given };
}

/** A copy of them. @param {ArrayBuffer | ArrayBufferView} data @returns {ArrayBuffer} */
const bytesOf = data => (data instanceof ArrayBuffer ? data.slice(0) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice().buffer);

/** The model of a file: its configuration says which tape is its. @param {ArrayBuffer} file @param {Site} all @returns {Promise<Model>} */
async function described(file, { tapes, order, defaults }) {
  const { metadata } = await headerOf(file), { klass = "" } = metadata;
  if (!klass.endsWith(".HTDemucs")) throw new DemucsError("usage", klass ? `the model is a ${klass}` : "the file does not say which model it holds", "take an HTDemucs, as `demucs-np convert` writes it");
  if ("structure" in metadata) throw new DemucsError("usage", "the model is quantised", "convert it with `demucs-np convert`");
  const args = JSON.parse(metadata.args ?? "[]"), kwargs = { ...Object.fromEntries(order.map((name, i) => [name, args[i]]).slice(0, args.length)), ...JSON.parse(metadata.kwargs ?? "{}") };
  const plain = (/** @type {any} */ value) => (value?._type === "fraction" ? value.numerator / value.denominator : typeof value === "boolean" ? Number(value) : value);
  const config = Object.fromEntries(Object.keys(defaults).map(name => [name, plain(kwargs[name] ?? defaults[name])]));
  const stems = config.sources;
  config.sources = stems.length;
  const tape = tapes.find(t => Object.keys(defaults).every(name => JSON.stringify(plain(t.config[name])) === JSON.stringify(config[name])));
  if (!tape) throw new DemucsError("tape", "no tape of this site fits the model's configuration", "build one with `demucs-np web build -n FILE`");
  const recipe = metadata.recipe ? JSON.parse(metadata.recipe) : { shifts: 1, overlap: 0.25, window: "triangle", normalize: true };
  return {
    name: "the model", about: "", stems, samplerate: config.samplerate, channels: config.audio_channels, recipe: { ...recipe, overlap: plain(recipe.overlap) },
    tape: tape.file, weights: [stems.map(() => 1)], files: [],
  };
}

/** @param {number | undefined} wanted @param {(p: Progress) => void} onprogress */
function threadsFor(wanted, onprogress) {
  if (wanted !== undefined && !(Number.isInteger(wanted) && wanted > 0)) throw new DemucsError("usage", `threads is ${wanted}`, "give a whole number from 1 on");
  const threads = wanted ?? Math.min(8, globalThis.navigator?.hardwareConcurrency ?? 4);
  if (threads === 1 || isolated()) return threads;
  onprogress({ stage: "note", done: 0, total: 0, message: "this page is not isolated, so there is one thread: serve it with `demucs-np web serve`, or let its service worker run" });
  return 1;
}

/** @param {string[]} stems @param {Model} model */
function checkedStems(stems, model) {
  for (const name of stems) if (!model.stems.includes(name)) throw new DemucsError("usage", `stem "${name}" is not in this model`, `choose from ${model.stems.join(", ")}`);
  if (!stems.length || new Set(stems).size !== stems.length) throw new DemucsError("usage", `stems is [${stems}]`, "name one or more different stems");
  return stems.map(name => model.stems.indexOf(name));
}

/** @param {{ overlap: number, shifts: number, seed: number }} options @param {number} segment */
function checkOptions({ overlap, shifts, seed }, segment) {
  if (!(overlap >= 0 && overlap < 1 && Math.trunc((1 - overlap) * segment) >= 1)) throw new DemucsError("usage", `overlap is ${overlap}`, "give a part of the segment, at least 0 and below 1");
  if (!(Number.isInteger(shifts) && shifts >= 0)) throw new DemucsError("usage", `shifts is ${shifts}`, "give a whole number from 0 on");
  if (!Number.isSafeInteger(seed)) throw new DemucsError("usage", `seed is ${seed}`, "give a whole number");
}

/** @param {Float32Array[]} channels @param {number} wanted */
function checkTrack(channels, wanted) {
  if (!Array.isArray(channels) || !channels.length || !channels.every(x => x instanceof Float32Array && x.length === channels[0].length))
    throw new DemucsError("audio", "the track is not a list of Float32Arrays of one length", "give one for each channel");
  if (!channels[0].length) throw new DemucsError("audio", "the track holds no samples", "give it some");
  if (channels.length > 1 && channels.length < wanted) throw new DemucsError("audio", `the track has ${channels.length} channels, but the model takes ${wanted}`, `make it mono or give it ${wanted}`);
  if (!channels.every(finite)) throw new DemucsError("audio", "the track has NaN or infinite samples", "repair or re-export it");
}

/** @param {Float32Array} x */
function finite(x) {
  let total = 0;
  for (let i = 0; i < x.length; i++) total += x[i] * 0;
  return total === 0;
}

/** @param {Float32Array[]} channels */
const mean = channels => channels[0].map((_, i) => Math.fround(channels.reduce((sum, x) => Math.fround(sum + x[i]), 0)) / channels.length);

/** @param {number} a @param {number} b @returns {number} */
const gcd = (a, b) => (b ? gcd(b, a % b) : a);
