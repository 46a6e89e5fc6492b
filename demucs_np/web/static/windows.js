// @ts-check
import { Random } from "./random.js";

const { fround } = Math;

/**
 * What a separation is made of. Positions are samples of the track at the model's rate; what lies before and after it is silence.
 * @typedef {{ sources: string[], samplerate: number, channels: number, segment: number, weights: number[][] }} Shape
 * @typedef {{ start: number, stems: Float32Array[][] }} Block
 * @typedef {{ indices: number[], overlap: number, shifts: number, seed: number, flat: boolean, normalize: boolean }} Options
 * @typedef {(member: number, input: Float32Array) => Promise<Float32Array>} Run
 */

/** Mean and unbiased deviation of the mono mix, in double precision, block by block. @param {Float32Array[]} channels */
export function loudness(channels) {
  const samples = channels[0].length, size = 1 << 18;
  let count = 0, mean = 0, squares = 0;
  const mono = new Float64Array(Math.min(size, samples));
  for (let start = 0; start < samples; start += size) {
    const n = Math.min(size, samples - start);
    let total = 0;
    for (let i = 0; i < n; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[start + i];
      total += mono[i] = sum / channels.length;
    }
    const here = total / n, delta = here - mean;
    let sum = 0;
    for (let i = 0; i < n; i++) sum += (mono[i] - here) ** 2;
    squares += sum + (delta * delta * count * n) / (count + n);
    mean += (delta * n) / (count + n);
    count += n;
  }
  return { mean: fround(mean), std: fround(Math.sqrt(squares / (count - 1)) + 1e-8) };
}

/** Weights that rise to the middle and fall. @param {number} length */
function triangle(length) {
  const half = length >> 1, peak = Math.max(half, length - half);
  return Float32Array.from({ length }, (_, i) => (i < half ? i + 1 : length - i) / peak);
}

/** The delays of each member's passes, and which members a choice of stems needs. @param {Shape} shape @param {number[]} indices @param {number} shifts @param {number} seed */
export function plan(shape, indices, shifts, seed) {
  const draw = new Random(seed), most = Math.floor(0.5 * shape.samplerate);
  const members = shape.weights.map((row, number) => {
    const delays = Array.from({ length: shifts }, () => most - draw.randint(most)); // a member that does not run draws all the same
    return { number, row: indices.map(i => row[i]), delays: shifts ? delays : [0] };
  });
  const totals = indices.map(i => shape.weights.reduce((sum, row) => sum + row[i], 0));
  return { members: members.filter(member => member.row.some(w => w !== 0)), totals };
}

/**
 * One run over the track from position -delay on: chunks, cross-faded.
 * @param {Shape} shape @param {Float32Array[]} track @param {{ mean: number, std: number }} level @param {Options} options
 * @param {number} delay @param {(input: Float32Array) => Promise<Float32Array>} run @returns {AsyncGenerator<Block, void, void>}
 */
async function* pass(shape, track, level, { indices, overlap, flat }, delay, run) {
  const size = shape.segment, stride = Math.trunc((1 - overlap) * size), C = shape.channels;
  const weight = flat ? new Float32Array(size).fill(1) : triangle(size);
  const samples = track[0].length, length = samples + delay;
  const total = indices.map(() => Array.from({ length: C }, () => new Float32Array(size))), sum = new Float32Array(size);
  for (let offset = 0; offset < length; offset += stride) {
    const count = Math.min(size, length - offset), before = flat ? 0 : (size - count) >> 1, begin = offset - delay - before;
    const input = new Float32Array(C * size);
    track.forEach((x, c) => {
      for (let i = Math.max(0, -begin), end = Math.min(size, samples - begin); i < end; i++) input[c * size + i] = fround(x[begin + i] - level.mean) / level.std;
    });
    const output = await run(input);
    indices.forEach((source, s) => {
      for (let c = 0; c < C; c++) {
        const into = total[s][c], at = (source * C + c) * size + before;
        for (let i = 0; i < count; i++) into[i] += fround(weight[i] * output[at + i]);
      }
    });
    for (let i = 0; i < count; i++) sum[i] += weight[i];
    const ready = Math.min(stride, length - offset);
    const stems = total.map(channels => channels.map(x => x.slice(0, ready).map((v, i) => v / sum[i])));
    yield { start: offset, stems };
    for (const x of [...total.flat(), sum]) x.copyWithin(0, stride).fill(0, size - stride);
  }
}

/** The stream without its first `count` samples. @param {AsyncGenerator<Block, void, void>} stream @param {number} count @returns {AsyncGenerator<Block, void, void>} */
async function* withoutStart(stream, count) {
  for await (const { start, stems } of stream) {
    const end = start + stems[0][0].length, skip = Math.max(0, count - start);
    if (end > count) yield { start: Math.max(0, start - count), stems: stems.map(channels => channels.map(x => x.subarray(skip))) };
  }
}

/** Blocks of equal bounds from streams that cut differently, joined by `join`. @param {AsyncGenerator<Block, void, void>[]} streams @param {(blocks: Float32Array[][][]) => Float32Array[][]} join @returns {AsyncGenerator<Block, void, void>} */
async function* together(streams, join) {
  /** @type {(Float32Array[][] | null)[]} */
  let heads = streams.map(() => null);
  for (let start = 0; ; ) {
    for (let i = 0; i < streams.length; i++) {
      const head = heads[i];
      if (head && head[0][0].length) continue;
      const next = await streams[i].next();
      if (next.done) return; // all streams have one length: the others have ended as well
      heads[i] = next.value.stems;
    }
    const full = /** @type {Float32Array[][][]} */ (heads), count = Math.min(...full.map(head => head[0][0].length));
    yield { start, stems: join(full.map(head => head.map(channels => channels.map(x => x.slice(0, count))))) };
    start += count;
    heads = full.map(head => head.map(channels => channels.map(x => x.subarray(count))));
  }
}

/** into = f(into, from), rounded to float32. @param {Float32Array} into @param {(v: number, i: number) => number} f */
const each = (into, f) => {
  for (let i = 0; i < into.length; i++) into[i] = f(into[i], i);
};

/** The average of passes. @param {Float32Array[][][]} blocks */
function average(blocks) {
  const [first, ...rest] = blocks;
  for (const block of rest) block.forEach((stem, s) => stem.forEach((x, c) => each(first[s][c], (v, i) => v + x[i])));
  if (rest.length) first.flat().forEach(x => each(x, v => v / blocks.length));
  return first;
}

/**
 * A track in blocks of finished stems, as `apply_model` makes them.
 * @param {Shape} shape @param {Float32Array[]} track @param {Options} options
 * @param {Run} run @param {(total: number) => void} onplan @returns {AsyncGenerator<Block, void, void>}
 */
export async function* blocks(shape, track, options, run, onplan) {
  const { indices, overlap, shifts, seed } = options, level = options.normalize ? loudness(track) : { mean: 0, std: 1 }, { members, totals } = plan(shape, indices, shifts, seed);
  const stride = Math.trunc((1 - overlap) * shape.segment);
  onplan(members.reduce((sum, m) => sum + m.delays.reduce((all, delay) => all + Math.ceil((track[0].length + delay) / stride), 0), 0));
  const streams = members.map(({ number, delays }) => {
    const passes = delays.map(delay => withoutStart(pass(shape, track, level, options, delay, input => run(number, input)), delay));
    return together(passes, average);
  });
  yield* together(streams, outputs => {
    outputs.forEach((block, m) => block.forEach((stem, s) => {
      const w = fround(members[m].row[s]);
      if (w !== 1) stem.forEach(x => each(x, v => v * w));
    }));
    const [first, ...rest] = outputs;
    for (const block of rest) block.forEach((stem, s) => stem.forEach((x, c) => each(first[s][c], (v, i) => v + x[i])));
    first.forEach((stem, s) => totals[s] !== 1 && stem.forEach(x => each(x, v => v / fround(totals[s]))));
    if (options.normalize) first.flat().forEach(x => each(x, v => fround(v * level.std) + level.mean));
    return first;
  });
}
