// @ts-check
/** What the page draws of a stem, gathered block by block where no server does it: the same bytes as `page/pictures.py` makes. */

export const PEAK = 256; // samples of a peak: two int8, the least and the greatest sample of all channels, 127 being ±1
export const COLUMN = 2048; // samples of a column, without overlap
export const BANDS = 96; // rows of a column, from LOWEST to HIGHEST Hz in even steps of pitch, uint8
export const [LOWEST, HIGHEST] = [40, 16000];
const FLOOR = -90; // dB against a full-scale sine: 0; 0 dB: 255

/** Bytes that grow. @template {Int8Array | Uint8Array} T */
class Grown {
  /** @param {T} first */
  constructor(first) {
    this.all = first;
    this.length = 0;
  }

  /** @param {number} value */
  push(value) {
    if (this.length === this.all.length) {
      const larger = new (/** @type {any} */ (this.all.constructor))(2 * this.length);
      larger.set(this.all);
      this.all = larger;
    }
    this.all[this.length++] = value;
  }

  /** @param {number} start */
  from(start) {
    return /** @type {T} */ (this.all.slice(start, this.length));
  }
}

export class Pictures {
  /** @param {number} rate */
  constructor(rate) {
    this.peaks = new Grown(new Int8Array(4096));
    this.spectrogram = new Grown(new Uint8Array(16384));
    this.window = new Float32Array(COLUMN); // mono
    this.filled = 0;
    this.low = Infinity;
    this.high = -Infinity;
    this.seen = 0; // samples of the peak
    const edges = Array.from({ length: BANDS + 1 }, (_, i) => (LOWEST * (HIGHEST / LOWEST) ** (i / BANDS) * COLUMN) / rate);
    const starts = edges.map((edge) => Math.min(Math.floor(edge), COLUMN / 2));
    this.bands = starts.slice(0, -1).map((start, i) => [start, Math.max(start + 1, starts[i + 1])]);
  }

  /** @param {Float32Array[]} channels */
  append(channels) {
    for (let i = 0; i < channels[0].length; i++) {
      let sum = 0;
      for (const channel of channels) {
        sum += channel[i];
        this.low = Math.min(this.low, channel[i]);
        this.high = Math.max(this.high, channel[i]);
      }
      if (++this.seen === PEAK) this.#peak();
      this.window[this.filled++] = sum / channels.length;
      if (this.filled === COLUMN) this.#column();
    }
  }

  /** Add what the last, incomplete windows hold. */
  finish() {
    if (this.seen) this.#peak();
    this.window.fill(0, this.filled);
    if (this.filled) this.#column();
  }

  #peak() {
    for (const value of [this.low, this.high]) this.peaks.push(even(Math.max(-1, Math.min(1, value)) * 127));
    [this.low, this.high, this.seen] = [Infinity, -Infinity, 0];
  }

  #column() {
    const power = spectrum(this.window);
    for (const [start, stop] of this.bands) {
      let most = 0;
      for (let bin = start; bin < stop; bin++) most = Math.max(most, power[bin]);
      const decibels = 10 * Math.log10(Math.max(most * (4 / COLUMN) ** 2, 1e-12));
      this.spectrogram.push(even(Math.max(0, Math.min(1, 1 - decibels / FLOOR)) * 255));
    }
    this.filled = 0;
  }
}

/** To the nearest, halves to even. @param {number} x */
const even = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

const turns = Float64Array.from({ length: COLUMN }, (_, i) => Math.cos((2 * Math.PI * i) / COLUMN)); // a cosine's period

/** |FFT|^2 of a window under Hann's, up to half the rate: radix 2, in place. @param {Float32Array} window */
function spectrum(window) {
  const [real, imaginary] = [new Float64Array(COLUMN), new Float64Array(COLUMN)];
  for (let i = 0, j = 0; i < COLUMN; i++) {
    real[j] = window[i] * (0.5 - 0.5 * turns[i]);
    let bit = COLUMN >> 1;
    for (; j & bit; bit >>= 1) j ^= bit; // j counts with its bits reversed
    j |= bit;
  }
  for (let size = 2; size <= COLUMN; size *= 2) {
    const [half, step] = [size / 2, COLUMN / size];
    for (let k = 0; k < half; k++) {
      const [cosine, sine] = [turns[k * step], -turns[(k * step + (3 * COLUMN) / 4) % COLUMN]]; // exp(-2πik/size)
      for (let i = k; i < COLUMN; i += size) {
        const j = i + half;
        const [a, b] = [real[j] * cosine - imaginary[j] * sine, real[j] * sine + imaginary[j] * cosine];
        [real[j], imaginary[j]] = [real[i] - a, imaginary[i] - b];
        [real[i], imaginary[i]] = [real[i] + a, imaginary[i] + b];
      }
    }
  }
  return Float64Array.from({ length: COLUMN / 2 + 1 }, (_, i) => real[i] ** 2 + imaginary[i] ** 2);
}
