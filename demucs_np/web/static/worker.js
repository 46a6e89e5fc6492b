// @ts-check
/**
 * A thread of the engine. Thread 0 conducts: it owns the memory, answers requests one by one, and looks for messages while it works.
 * The others only make calls. In a browser a module worker, in Node a worker thread.
 */
import { aborted, DemucsError, noMemory } from "./errors.js";
import { ARENA, fillArguments, fillConstants, INPUT, layout, LOAD, OUTPUT, PAGE, STAGING, Thread, up, WEIGHTS } from "./replay.js";
import { tensorsOf } from "./safetensors.js";
import { taps } from "./tables.js";

const TILE = 8192, BLOCK = 1 << 17; // output samples of a tile of the resampler, and of a block
const PATIENCE = 50; // ms between two looks for messages
const HEAP = 1 << 20; // bytes that the module's own data may take

/** @type {any} */
const port = typeof (/** @type {any} */ (globalThis).WorkerGlobalScope) === "undefined" ? (await import("node:worker_threads")).parentPort : globalThis;
const listen = (/** @type {(data: any) => void} */ f) => (port.on ? port.on("message", f) : port.addEventListener("message", (/** @type {MessageEvent} */ e) => f(e.data)));

/** @type {any} */
let state = null;
let cancelled = 0; // requests up to this number

/** Let messages come in. */
const breathe = port.on
  ? () => new Promise(done => setImmediate(done))
  : () => new Promise(done => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => (channel.port1.close(), done(undefined));
      channel.port2.postMessage(0);
    });

/** Asked between ranges of tiles of request `id`: tells how far it is, and hears of cancellation. @param {number} id @param {() => number} part */
function pauses(id, part) {
  let last = performance.now();
  return () => {
    if (performance.now() - last < PATIENCE) return undefined;
    port.postMessage({ id, part: part() });
    return breathe().then(() => {
      if (cancelled >= id) throw aborted();
      last = performance.now();
    });
  };
}

/** Make the steps of a list in order. @param {number} id @param {number[][]} steps @param {number} place of the first step's arguments @param {(step: number[]) => Promise<void>} load @param {Float64Array} [times] */
async function run(id, steps, place, load, times) {
  const { thread } = state;
  let at = 0;
  const pause = pauses(id, () => at / steps.length);
  for (; at < steps.length; at++) {
    const step = steps[at], began = times ? performance.now() : 0;
    if (step[0] === LOAD) await load(step);
    else await thread.call(step[0], step[1], place, pause);
    if (times) times[at] = performance.now() - began;
    place += 8 * step.length;
  }
}

/** @param {number} end bytes that the memory is to have */
function grow(end) {
  const missing = end - state.memory.buffer.byteLength;
  try {
    if (missing > 0) state.memory.grow(Math.ceil(missing / PAGE));
  } catch (error) {
    throw noMemory(end, /** @type {Error} */ (error));
  }
}

/** Memory that may grow as far as the browser lets it. @param {number} pages */
function reserved(pages) {
  for (let maximum = 65536; ; maximum = Math.max(pages, maximum / 2))
    try {
      return new WebAssembly.Memory({ initial: pages, maximum, shared: true });
    } catch (error) {
      if (maximum === pages) throw noMemory(pages * PAGE, /** @type {Error} */ (error));
    }
}

/** @type {Record<string, (message: any) => any>} */
const requests = {
  open({ module, tape, threads, profile }) {
    const at = layout(tape, HEAP, threads), pages = (at.end + up(tape.regions.weights)) / PAGE;
    // Shared even for one thread: the module is made for it; only other threads' access needs isolation.
    const memory = reserved(pages);
    const thread = new Thread(module, memory, tape, at, 0, threads);
    if (thread.heap > HEAP) throw new Error("the module's own data are larger than expected");
    fillConstants(tape, at, memory.buffer);
    state = { tape, threads, memory, at, thread, images: [], place: -1, times: profile ? new Float64Array(tape.calls.length) : undefined };
    return { memory: threads > 1 ? memory : null, layout: at, bytes: memory.buffer.byteLength };
  },

  helper({ module, memory, tape, layout: at, number, threads }) {
    const thread = new Thread(module, memory, tape, at, number, threads);
    port.postMessage({ ready: true });
    thread.serve();
  },

  /** A file of weights into a place of its own: a Blob or an ArrayBuffer. */
  async load({ id, file }) {
    const { memory, tape, at, images, thread } = state;
    const tensors = await tensorsOf(file, tape.files);
    const place = at.end + images.length * up(tape.regions.weights);
    grow(place + tape.regions.weights);
    fillArguments(tape, at, memory.buffer, (state.place = place));
    const { buffer } = memory, bases = at.bases.slice();
    bases[WEIGHTS] = place;
    await run(id, tape.opening, at.opening, async ([, number, region, offset]) => {
      let to = bases[region] + offset;
      for await (const { data, half } of tensors[number](STAGING)) {
        if (half) {
          new Uint8Array(buffer, at.staging, data.byteLength).set(new Uint8Array(data));
          const count = data.byteLength / 2, pairs = at.staging + STAGING;
          new Uint32Array(buffer, pairs, 4).set([at.staging, count, to, count]);
          thread.widen(0, Math.ceil(count / 65536), thread.scratch, thread.floats, pairs);
          to += 4 * count;
        } else {
          new Uint8Array(buffer, to, data.byteLength).set(new Uint8Array(data));
          to += data.byteLength;
        }
      }
    });
    images.push(place);
    return { bytes: memory.buffer.byteLength };
  },

  /** One segment [channels * samples] -> [sources * channels * samples]. */
  async segment({ id, member, input }) {
    const { memory, tape, at, images, times } = state;
    if (state.place !== images[member]) fillArguments(tape, at, memory.buffer, (state.place = images[member]));
    new Float32Array(memory.buffer, at.bases[INPUT], input.length).set(input);
    await run(id, tape.calls, at.calls, async () => {}, times);
    const output = new Float32Array(memory.buffer, at.bases[OUTPUT], input.length * tape.sources).slice();
    return { output, times, transfer: [output.buffer] };
  },

  /** Channels of any rate at another; the buffers lie where a segment's would. Rates are coprime. */
  async resample({ id, channels, old, fresh }) {
    const { memory, at, thread } = state;
    let done = 0;
    const pause = pauses(id, () => done / channels.length);
    const table = taps(old, fresh), K = table.length / fresh, width = (K - 1) / 2;
    const longest = Math.floor(((BLOCK + 1) * old) / fresh) + K + 2;
    const places = [table.length, longest, BLOCK].reduce((all, n) => [...all, all[all.length - 1] + up(4 * n, 64)], [at.bases[ARENA]]);
    const geometry = places[3], pairs = geometry + 64;
    grow(geometry + 128);
    const { buffer } = memory;
    new Float32Array(buffer, places[0], table.length).set(table);
    new Uint32Array(buffer, pairs, 8).set([places[1], longest, places[0], table.length, places[2], BLOCK, geometry, 8]);
    const results = [];
    for (const x of channels) {
      const out = new Float32Array(Math.floor((fresh * x.length) / old));
      const window = new Float32Array(buffer, places[1], longest);
      for (let first = 0; first < out.length; first += BLOCK) {
        const count = Math.min(BLOCK, out.length - first), base = Math.floor((first * old) / fresh);
        for (let i = 0; i < longest; i++) window[i] = x[Math.min(x.length - 1, Math.max(0, base + i - width))];
        const tiles = Math.ceil(count / TILE);
        new BigInt64Array(buffer, geometry, 8).set([longest, K, old, fresh, first, base, tiles, TILE].map(BigInt));
        new Uint32Array(buffer, pairs, 8)[5] = count;
        for (let tile = 0; tile < tiles; tile++) {
          thread.resample(tile, tile + 1, thread.scratch, thread.floats, pairs);
          const waiting = pause();
          if (waiting) await waiting;
        }
        out.set(new Float32Array(buffer, places[2], count), first);
      }
      results.push(out);
      done++;
    }
    return { channels: results, transfer: results.map(r => r.buffer) };
  },
};

listen(async message => {
  if (message.cancel) {
    cancelled = Math.max(cancelled, message.cancel);
    return;
  }
  try {
    const { transfer = [], ...result } = (await requests[message.type](message)) ?? {};
    port.postMessage({ id: message.id, result }, transfer);
  } catch (error) {
    const failure = error instanceof DemucsError ? error : new DemucsError("worker", `the engine failed (${/** @type {Error} */ (error).message})`, "open it again, and report this");
    const { code, what, remedy } = failure;
    port.postMessage({ id: message.id, failure: { code, what, remedy } });
  }
});
port.postMessage({ ready: true });
