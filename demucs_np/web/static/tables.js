// @ts-check
/** Tables that follow from a configuration alone: computed in double precision, rounded once, as the package does in Python. */

/** Periodic Hann window. @param {number} n */
export function hann(n) {
  return Float32Array.from({ length: n }, (_, k) => 0.5 - 0.5 * Math.cos((2 * Math.PI * k) / n));
}

/** Cosines, then sines, of 2 pi k / n for k < n/2. @param {number} n */
export function twiddles(n) {
  const out = new Float32Array(n);
  for (let k = 0; k < n / 2; k++) {
    const angle = (2 * Math.PI * k) / n;
    out[k] = Math.cos(angle);
    out[n / 2 + k] = Math.sin(angle);
  }
  return out;
}

/** 1 / (sum of the squared windows over each of n samples), constant at both ends. @param {number} size @param {number} n */
export function inverse_envelope(size, n) {
  const hop = size / 4, window = hann(size), period = new Float32Array(hop);
  for (let i = 0; i < hop; i++) {
    const at = (i + size / 8) % hop; // rolled by -(size/8)
    let total = 0;
    for (let q = 0; q < 4; q++) total += window[q * hop + at] ** 2;
    period[i] = 1 / total;
  }
  return Float32Array.from({ length: n }, (_, i) => period[i % hop]);
}

/** Sines and cosines of time in the first half of the channels, of frequency in the second: [T*F, C]. */
export function positions_2d(/** @type {number} */ T, /** @type {number} */ F, /** @type {number} */ C, /** @type {number} */ period, /** @type {number} */ weight) {
  const half = C / 2, out = new Float32Array(T * F * C);
  const rates = Array.from({ length: half / 2 }, (_, i) => Math.exp(2 * i * -(Math.log(period) / half)));
  for (let t = 0; t < T; t++)
    for (let f = 0; f < F; f++) {
      const at = (t * F + f) * C;
      rates.forEach((rate, i) => {
        out[at + 2 * i] = weight * Math.sin(t * rate);
        out[at + 2 * i + 1] = weight * Math.cos(t * rate);
        out[at + half + 2 * i] = weight * Math.sin(f * rate);
        out[at + half + 2 * i + 1] = weight * Math.cos(f * rate);
      });
    }
  return out;
}

/** Cosines, then sines, of time; `centered` counts it from the middle: [T, C]. */
export function positions_1d(/** @type {number} */ T, /** @type {number} */ C, /** @type {number} */ period, /** @type {boolean} */ centered, /** @type {number} */ weight) {
  const half = C / 2, out = new Float32Array(T * C);
  for (let i = 0; i < half; i++) {
    const divisor = period ** (half > 1 ? i / (half - 1) : NaN);
    for (let t = 0; t < T; t++) {
      const phase = (centered ? t - (T - 1) / 2 : t) / divisor;
      out[t * C + i] = weight * Math.cos(phase);
      out[t * C + half + i] = weight * Math.sin(phase);
    }
  }
  return out;
}

const ZEROS = 24, ROLLOFF = 0.945; // zero crossings of the sinc on each side; the pass band, as a part of the lower Nyquist frequency

/** The filter of each output phase: float32 [new, 2 * width + 1]. Rates are coprime. @param {number} old @param {number} fresh */
export function taps(old, fresh) {
  const rate = ROLLOFF * Math.min(old, fresh), width = Math.ceil((ZEROS * old) / rate), K = 2 * width + 1;
  const out = new Float32Array(fresh * K), row = new Float64Array(K);
  for (let phase = 0; phase < fresh; phase++) {
    let total = 0;
    for (let k = 0; k < K; k++) {
      const distance = ((Math.floor((phase * old) / fresh) + k - width) * fresh - phase * old) / (old * fresh);
      const t = Math.min(ZEROS, Math.max(-ZEROS, distance * rate));
      const sinc = t === 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t);
      total += row[k] = sinc * Math.cos(t * (Math.PI / (2 * ZEROS))) ** 2;
    }
    for (let k = 0; k < K; k++) out[phase * K + k] = row[k] / total;
  }
  return out;
}

/** The tables that a tape may name. @type {Record<string, (...args: any[]) => Float32Array>} */
export const TABLES = { hann, twiddles, inverse_envelope, positions_2d, positions_1d, ones: n => new Float32Array(n).fill(1) };
