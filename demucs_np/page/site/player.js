// @ts-check
/** All lanes through one Web Audio graph, on one clock: times are whole sample frames of the context, whose rate is the stems'.
 *
 * Audio comes in units of ten seconds; a few are kept, so that a track of an hour needs no more memory than one of a minute. The sources of all
 * lanes for a stretch of a unit are made together and start at the same frame; the next stretch starts at the frame where it ends.
 */

/** @typedef {import("./engine-studio.js").Engine} Engine
 * @typedef {import("./engine-studio.js").Track} Track
 * @typedef {{volume: number, pan: number, muted: boolean, solo: boolean}} Lane
 * @typedef {{start: number, stop: number}} Region
 * @typedef {{start: number, stop: number, buffers: Map<string, AudioBuffer>}} Unit */

const UNIT = 10; // seconds
const KEEP = 6; // units
const AHEAD = 3; // seconds that are scheduled
const LEAD = 0.05; // seconds between a decision and its sound
const SOON = 512; // frames: what starts later than that is in time
const EASE = 0.008; // seconds in which a gain changes, against clicks

/** What is heard of each stem. */
export class Mixer {
  /** @param {string[]} stems */
  constructor(stems) {
    /** @type {Record<string, Lane>} */ this.lanes = {};
    for (const name of stems) this.lanes[name] = { volume: 1, pan: 0, muted: false, solo: false };
    this.original = false;
    this.volume = 1;
  }

  /** As `voices` gives it: what an engine without a server mixes. @param {string[]} stems @param {string} voices */
  static of(stems, voices) {
    const mixer = new Mixer(stems);
    mixer.original = voices === "mix";
    for (const voice of mixer.original ? [] : voices.split(",")) {
      const [name, volume = "1", pan = "0"] = voice.split(":");
      Object.assign(mixer.lanes[name], { volume: Number(volume), pan: Number(pan), solo: true });
    }
    return mixer;
  }

  /** Whether a stem, or "mix", is heard. @param {string} name */
  heard(name) {
    if (name === "mix" || this.original) return name === "mix" && this.original;
    const soloed = Object.values(this.lanes).some((lane) => lane.solo);
    return soloed ? this.lanes[name].solo : !this.lanes[name].muted;
  }

  /** As the engines' `mix` of an export: `drums:0.5:-1,bass:1:0`; empty if nothing is heard. */
  voices() {
    if (this.original) return "mix";
    const heard = Object.entries(this.lanes).filter(([name]) => this.heard(name));
    return heard.map(([name, lane]) => `${name}:${lane.volume}:${lane.pan}`).join(",");
  }
}

export class Graph {
  /** @param {BaseAudioContext} context @param {Mixer} mixer */
  constructor(context, mixer) {
    this.context = context;
    this.output = context.createGain();
    this.nodes = new Map(
      ["mix", ...Object.keys(mixer.lanes)].map((name) => {
        const [gain, pan, meter] = [context.createGain(), context.createStereoPanner(), context.createAnalyser()];
        meter.fftSize = 2048;
        gain.connect(pan).connect(meter);
        (name === "mix" ? pan : meter).connect(this.output);
        return [name, { gain, pan, meter }];
      }),
    );
    const total = /** @type {{meter: AnalyserNode}} */ (this.nodes.get("mix")).meter; // of all that is heard
    this.output.connect(total).connect(context.destination);
    this.set(mixer, 0);
  }

  /** @param {Mixer} mixer @param {number} ease seconds */
  set(mixer, ease) {
    const change = (/** @type {AudioParam} */ param, /** @type {number} */ value) => param.setTargetAtTime(value, this.context.currentTime, ease);
    change(this.output.gain, mixer.volume);
    for (const [name, { gain, pan }] of this.nodes) {
      const lane = mixer.lanes[name] ?? { volume: 1, pan: 0 };
      change(gain.gain, mixer.heard(name) ? lane.volume : 0);
      change(pan.pan, lane.pan);
    }
  }

  /** Start `count` frames of a unit, from its frame `offset` on, at a frame of the context. Returns the sources.
   * @param {Unit} unit @param {number} frame @param {number} offset @param {number} count */
  start(unit, frame, offset, count) {
    const rate = this.context.sampleRate;
    return [...unit.buffers].map(([name, buffer]) => {
      const source = this.context.createBufferSource();
      source.buffer = buffer;
      source.connect(/** @type {{gain: GainNode}} */ (this.nodes.get(name)).gain);
      source.start(frame / rate, offset / rate, count / rate);
      return source;
    });
  }

  /** Peak of what a lane gives out now. @param {string} name */
  meter(name) {
    const samples = new Float32Array(2048);
    this.nodes.get(name)?.meter.getFloatTimeDomainData(samples);
    return samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  }
}

/** Frames `start` ... `stop` - 1 of all lanes; `stop` is less where the track ends, or is not ready.
 * @param {Engine} engine @param {Track} track @param {string[]} names @param {number} start @param {number} stop @returns {Promise<Unit>} */
async function load(engine, track, names, start, stop) {
  const parts = await Promise.all(names.map((name) => engine.audio(track, name, start, stop)));
  const count = Math.min(...parts.map(([left]) => left.length));
  const buffers = new Map();
  for (const [number, part] of count > 0 ? parts.entries() : []) {
    const buffer = new AudioBuffer({ numberOfChannels: 2, length: count, sampleRate: track.rate });
    for (const side of [0, 1]) buffer.copyToChannel(/** @type {any} */ (part[side] ?? part[0]), side);
    buffers.set(names[number], buffer);
  }
  return { start, stop: start + count, buffers };
}

/** What the graph makes of a part of a track: left and right. @param {Engine} engine @param {Track} track @param {Mixer} mixer @param {Region} part */
export async function render(engine, track, mixer, part) {
  const sides = [0, 1].map(() => new Float32Array(part.stop - part.start));
  const size = UNIT * track.rate;
  for (let start = part.start; start < part.stop; start += size) {
    const stop = Math.min(part.stop, start + size);
    const graph = new Graph(new OfflineAudioContext(2, stop - start, track.rate), mixer);
    graph.start(await load(engine, track, [...graph.nodes.keys()], start, stop), 0, 0, stop - start);
    const made = await /** @type {OfflineAudioContext} */ (graph.context).startRendering();
    sides.forEach((samples, side) => samples.set(made.getChannelData(side), start - part.start));
  }
  return sides;
}

export class Player {
  /** @type {Graph | null} */ #graph = null;
  /** @type {Map<number, Promise<Unit>>} */ #units = new Map();
  /** What is scheduled: from which frame of the context on which sample. @type {{frame: number, sample: number, count: number}[]} */ #plan = [];
  /** @type {Set<AudioBufferSourceNode>} */ #sources = new Set();
  #run = 0; // counts starts and stops: what an older one awaited is no longer wanted
  #rest = 0; // the sample at which it stands while it does not play
  playing = false;
  looping = false;
  /** @type {Region | null} */ loop = null;

  /** @param {Engine} engine @param {Track} track @param {Mixer} mixer
   * @param {() => void} changed told when it starts, stops, or jumps @param {(error: Error) => void} complain told why it cannot go on */
  constructor(engine, track, mixer, changed, complain) {
    this.engine = engine;
    this.track = track;
    this.mixer = mixer;
    this.changed = changed;
    this.complain = complain;
  }

  get length() {
    return this.track.length || Math.round(this.track.seconds * this.track.rate);
  }

  /** The sample that is heard now. */
  get position() {
    const context = /** @type {AudioContext | undefined} */ (this.#graph?.context);
    if (!this.playing || !context) return this.#rest;
    const now = Math.round((context.currentTime - (context.outputLatency || 0)) * context.sampleRate);
    const part = this.#plan.findLast((piece) => piece.frame <= now) ?? this.#plan[0];
    return part ? part.sample + Math.min(part.count, Math.max(0, now - part.frame)) : this.#rest;
  }

  /** Where it goes back to the loop's start, or ends. */
  get #end() {
    return this.looping && this.loop ? Math.min(this.loop.stop, this.length) : this.length;
  }

  async play() {
    const { rate } = this.track;
    if (!this.#graph) this.#graph = new Graph(new AudioContext({ sampleRate: rate, latencyHint: "interactive" }), this.mixer);
    const context = /** @type {AudioContext} */ (this.#graph.context);
    this.playing = true;
    const run = ++this.#run;
    if (this.#rest >= this.#end || (this.looping && this.loop && this.#rest < this.loop.start)) this.#rest = this.looping ? (this.loop?.start ?? 0) : 0;
    try {
      await context.resume();
      this.changed();
      await this.#fill(this.#graph, run);
    } catch (error) {
      if (run !== this.#run) return;
      this.pause();
      this.complain(/** @type {Error} */ (error));
    }
  }

  pause() {
    this.#rest = this.position;
    this.playing = false;
    this.#run++;
    for (const source of this.#sources) source.stop();
    this.#sources.clear();
    this.#plan = [];
    this.changed();
  }

  /** @param {number} sample */
  seek(sample) {
    const playing = this.playing;
    if (playing) this.pause();
    this.#rest = Math.max(0, Math.min(Math.round(sample), this.length));
    if (playing) this.play();
    else this.changed();
  }

  /** Loop a region, or not; null: the whole track. @param {boolean} on @param {Region | null} loop */
  setLoop(on, loop) {
    this.looping = on;
    this.loop = loop && { start: Math.max(0, Math.round(loop.start)), stop: Math.min(this.length, Math.round(loop.stop)) };
    this.seek(this.position);
  }

  /** The mixer has changed. */
  apply() {
    this.#graph?.set(this.mixer, EASE);
  }

  /** @param {string} name */
  meter(name) {
    return this.playing ? (this.#graph?.meter(name) ?? 0) : 0;
  }

  close() {
    if (this.playing) this.pause();
    this.#units.clear();
    const context = /** @type {AudioContext | undefined} */ (this.#graph?.context);
    this.#graph = null;
    context?.close();
  }

  /** @param {number} number @returns {Promise<Unit>} */
  #unit(number) {
    const size = UNIT * this.track.rate;
    const kept = this.#units.get(number);
    const unit = kept ?? load(this.engine, this.track, ["mix", ...Object.keys(this.mixer.lanes)], number * size, (number + 1) * size);
    this.#units.delete(number);
    this.#units.set(number, unit); // the last one is the one used last
    for (const old of [...this.#units.keys()].slice(0, Math.max(0, this.#units.size - KEEP))) this.#units.delete(old);
    unit.then(({ stop }) => stop < Math.min((number + 1) * size, this.length) && this.#units.delete(number), () => this.#units.delete(number));
    return unit;
  }

  /** Keep AHEAD seconds on their way. @param {Graph} graph @param {number} run */
  async #fill(graph, run) {
    const { rate } = this.track;
    const now = () => Math.ceil(graph.context.currentTime * rate);
    while (run === this.#run) {
      const last = this.#plan.at(-1);
      const due = last ? last.frame + last.count : now();
      let sample = last ? last.sample + last.count : this.#rest;
      if (sample >= this.#end && this.looping) sample = this.loop?.start ?? 0;
      if (sample >= this.#end && now() > due) {
        this.pause();
        return this.seek(0);
      }
      const wanted = sample < Math.min(this.#end, this.track.ready) && due <= now() + AHEAD * rate;
      const unit = wanted ? await this.#unit(Math.floor(sample / (UNIT * rate))) : null;
      const count = unit ? Math.min(unit.stop, this.#end) - sample : 0;
      if (run !== this.#run) return;
      if (unit && count > 0) {
        const frame = last && due > now() + SOON ? due : now() + Math.ceil(LEAD * rate);
        this.#plan.push({ frame, sample, count });
        for (const source of graph.start(unit, frame, sample - unit.start, count)) {
          this.#sources.add(source);
          source.onended = () => this.#sources.delete(source); // with its samples
        }
      } else await new Promise((soon) => setTimeout(soon, 50)); // enough, or not there yet
    }
  }
}
