// @ts-check
import { TABLES } from "./tables.js";

/**
 * A recorded model: see `demucs_np/web/tape.py` for what its fields mean.
 * @typedef {{ format: number, channels: number, length: number, sources: number, scratch: number, finite: [number, number],
 *   regions: Record<"input" | "output" | "weights" | "constants" | "arena" | "tensors", number>, kernels: [string, string][],
 *   arguments: [number, number, number][], constants: [string, number, any[]][], files: [string, number][],
 *   opening: number[][], calls: number[][], [more: string]: any }} Tape
 * Where everything lies in memory. Weights come last, one image after the other.
 * @typedef {{ control: number, stacks: number, scratch: number, scratchBytes: number, opening: number, calls: number, bases: number[],
 *   staging: number, end: number }} Layout
 */

export const PAGE = 65536;
const STACK = 65536;
export const INPUT = 0, OUTPUT = 1, WEIGHTS = 2, CONSTANTS = 3, ARENA = 4, TENSORS = 5; // regions
export const LOAD = -1;
export const STAGING = 1 << 20; // bytes of a part of a tensor on its way
const EPOCH = 0, TILES = 1, DONE = 2, KERNEL = 3, COUNT = 4, ARGUMENTS = 5, QUIT = 6; // control words
const WORDS = 8;
const SPIN = 3000; // looks at a word before a thread sleeps

export const up = (/** @type {number} */ n, to = PAGE) => Math.ceil(n / to) * to;

/** @param {Tape} tape @param {number} heap what the module itself takes @param {number} threads @returns {Layout} */
export function layout(tape, heap, threads) {
  let top = up(heap, 64);
  const take = (/** @type {number} */ bytes, to = 64) => {
    const at = up(top, to);
    top = at + bytes;
    return at;
  };
  const control = take(4 * WORDS), stacks = take(threads * STACK);
  const scratchBytes = up(4 * tape.scratch + 4096);
  const scratch = take(threads * scratchBytes, PAGE);
  const words = (/** @type {number[][]} */ steps) => 8 * steps.reduce((sum, step) => sum + step.length, 0);
  const opening = take(words(tape.opening)), calls = take(words(tape.calls));
  const { input, output, constants, arena, tensors } = tape.regions;
  const bases = [take(input), take(output), 0, take(constants), take(Math.max(arena, tensors + 2 * STAGING), PAGE)];
  bases[TENSORS] = bases[ARENA]; // a model is opened before it runs
  return { control, stacks, scratch, scratchBytes, opening, calls, bases, staging: bases[TENSORS] + up(tensors, 64), end: up(top) };
}

/** Constants into memory, once. @param {Tape} tape @param {Layout} at @param {ArrayBuffer | SharedArrayBuffer} buffer */
export function fillConstants(tape, at, buffer) {
  for (const [kind, offset, numbers] of tape.constants) {
    const place = at.bases[CONSTANTS] + offset;
    if (kind === "i") new BigInt64Array(buffer, place, numbers.length).set(numbers.map(BigInt));
    else if (kind === "d") new Float64Array(buffer, place, numbers.length).set(numbers);
    else if (kind === "f") new Float32Array(buffer, place, numbers.length).set(numbers);
    else {
      const table = TABLES[kind](...numbers);
      new Float32Array(buffer, place, table.length).set(table);
    }
  }
}

/** Addresses and counts of all steps' arguments, with the weights at `image`. @param {Tape} tape @param {Layout} at @param {ArrayBuffer | SharedArrayBuffer} buffer @param {number} image */
export function fillArguments(tape, at, buffer, image) {
  const words = new Uint32Array(buffer), bases = at.bases.slice();
  bases[WEIGHTS] = image;
  for (const [steps, place] of /** @type {[number[][], number][]} */ ([[tape.opening, at.opening], [tape.calls, at.calls]])) {
    let w = place >> 2;
    for (const step of steps) {
      if (step[0] !== LOAD)
        step.slice(3).forEach((number, j) => {
          const [region, offset, count] = tape.arguments[number];
          words[w + 2 * j] = bases[region] + offset;
          words[w + 2 * j + 1] = count;
        });
      w += 2 * step.length;
    }
  }
}

/** One thread's view of the engine: an instance of the module on the shared memory. */
export class Thread {
  /** @param {WebAssembly.Module} module @param {WebAssembly.Memory} memory @param {Tape} tape @param {Layout} at @param {number} number @param {number} threads */
  constructor(module, memory, tape, at, number, threads) {
    const instance = new WebAssembly.Instance(module, { env: { memory } });
    const exports = /** @type {any} */ (instance.exports);
    exports.__stack_pointer.value = at.stacks + (number + 1) * STACK;
    this.heap = exports.__heap_base.value;
    this.kernels = tape.kernels.map(([name]) => exports["k" + name]);
    this.widen = exports.k_widen_weights_tiles;
    this.resample = exports.k_resample_tiles;
    this.words = new Int32Array(memory.buffer, at.control, WORDS);
    this.scratch = at.scratch + number * at.scratchBytes;
    this.floats = at.scratchBytes / 4;
    this.threads = threads;
  }

  /** Take one range of tiles of the call in work; false if none is left. @param {Function} kernel @param {number} tiles @param {number} place of its arguments */
  range(kernel, tiles, place) {
    const step = Math.max(1, Math.min(8, Math.floor(tiles / (4 * this.threads)))); // short: an engine replaces slow code between calls
    const first = Atomics.add(this.words, TILES, step);
    if (first >= tiles) return false;
    kernel(first, Math.min(tiles, first + step), this.scratch, this.floats, place);
    return true;
  }

  /** A helper's life: wait for a call, work, say that it is done. */
  serve() {
    const { words } = this;
    for (let epoch = 0; ; ) {
      changed(words, EPOCH, epoch);
      epoch = Atomics.load(words, EPOCH);
      if (Atomics.load(words, QUIT)) return;
      const kernel = this.kernels[words[KERNEL]], tiles = words[COUNT], place = words[ARGUMENTS] >>> 0;
      while (this.range(kernel, tiles, place));
      Atomics.add(words, DONE, 1);
      Atomics.notify(words, DONE);
    }
  }

  /**
   * The conductor's: one call, together with the helpers. `pause` is asked between ranges of tiles, and may throw.
   * @param {number} number of the kernel @param {number} tiles @param {number} place @param {() => Promise<void> | undefined} pause
   */
  async call(number, tiles, place, pause) {
    const { words } = this, helpers = tiles > 1 ? this.threads - 1 : 0;
    Atomics.store(words, TILES, 0);
    if (helpers) {
      words[KERNEL] = number;
      words[COUNT] = tiles;
      words[ARGUMENTS] = place;
      Atomics.store(words, DONE, 0);
      Atomics.add(words, EPOCH, 1);
      Atomics.notify(words, EPOCH);
    }
    try {
      while (this.range(this.kernels[number], tiles, place)) {
        const waiting = pause();
        if (waiting) await waiting;
      }
    } catch (error) {
      Atomics.store(words, TILES, 1 << 30);
      throw error;
    } finally {
      for (let done; (done = Atomics.load(words, DONE)) < helpers; ) changed(words, DONE, done);
    }
  }

  /** Let the helpers end. */
  quit() {
    Atomics.store(this.words, QUIT, 1);
    Atomics.add(this.words, EPOCH, 1);
    Atomics.notify(this.words, EPOCH);
  }
}

/** Spin a little, then sleep until a word is no longer `value`. @param {Int32Array} words @param {number} at @param {number} value */
function changed(words, at, value) {
  for (let n = 0; n < SPIN; n++) if (Atomics.load(words, at) !== value) return;
  while (Atomics.load(words, at) === value) Atomics.wait(words, at, value, 1000);
}
