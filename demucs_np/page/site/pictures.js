// @ts-check
/** What the page draws of a stem, where no server does it: the same bytes as `page/pictures.py` makes. */

import fourier from "./vendor/fourier-transform.js";

export const PEAK = 256; // samples of a peak: two int8, the least and the greatest sample of all channels, 127 being ±1
export const COLUMN = 2048; // samples of a column, without overlap
export const BANDS = 96; // rows of a column, from LOWEST to HIGHEST Hz in even steps of pitch, uint8
export const [LOWEST, HIGHEST] = [40, 16000];
const FLOOR = -90; // dB against a full-scale sine: 0; 0 dB: 255
const HANN = Float64Array.from({ length: COLUMN }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / COLUMN));

/** To the nearest, halves to even. @param {number} x */
const even = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));
/** @param {number} x @param {number} low @param {number} high */
const clamp = (x, low, high) => Math.max(low, Math.min(high, x));

/** Of all channels' samples, from a multiple of PEAK on. @param {Float32Array[]} channels */
export function peaks(channels) {
  const out = new Uint8Array(2 * Math.ceil(channels[0].length / PEAK));
  for (let at = 0; at < out.length; at += 2) {
    let [low, high] = [Infinity, -Infinity];
    for (const channel of channels) {
      for (let i = (at / 2) * PEAK, stop = Math.min(i + PEAK, channel.length); i < stop; i++) {
        low = Math.min(low, channel[i]);
        high = Math.max(high, channel[i]);
      }
    }
    out.set([low, high].map((value) => even(clamp(value, -1, 1) * 127)), at);
  }
  return out;
}

/** Of the channels' mean, from a multiple of COLUMN on. @param {Float32Array[]} channels @param {number} rate */
export function spectrogram(channels, rate) {
  const edges = Array.from({ length: BANDS + 1 }, (_, i) => Math.min(COLUMN / 2, Math.floor((LOWEST * (HIGHEST / LOWEST) ** (i / BANDS) * COLUMN) / rate)));
  const out = new Uint8Array(BANDS * Math.ceil(channels[0].length / COLUMN));
  for (let at = 0, first = 0; at < out.length; at += BANDS, first += COLUMN) {
    const mean = (/** @type {number} */ i) => channels.reduce((sum, channel) => sum + (channel[i] ?? 0), 0) / channels.length;
    const level = fourier(HANN.map((window, i) => window * mean(first + i))); // 0.5: a full-scale sine
    for (let band = 0; band < BANDS; band++) {
      const most = level.subarray(edges[band], Math.max(edges[band] + 1, edges[band + 1])).reduce((most, bin) => Math.max(most, bin), 0);
      const decibels = 20 * Math.log10(Math.max(2 * most, 1e-6));
      out[at + band] = even(clamp(1 - decibels / FLOOR, 0, 1) * 255);
    }
  }
  return out;
}
