// @ts-check
/** The lanes of a track: what each stem looks like, its knobs, the loop and the playhead. All lanes show the same part, `view`, in samples. */

import { $, press } from "./dom.js";
import { BANDS, COLUMN, PEAK } from "./pictures.js";
import { clock } from "./words.js";

/** @typedef {import("./player.js").Player} Player
 * @typedef {import("./player.js").Region} Region
 * @typedef {{peaks: Uint8Array, spectrogram: Uint8Array}} Pictures bytes as `pictures.js` makes them */

const SHORTEST = 2; // seconds that fill the width, at least
const DRAG = 4; // pixels: less is a click

/** @param {number} first @param {number} second @returns {Region} */
const between = (first, second) => ({ start: Math.min(first, second), stop: Math.max(first, second) });

/** @param {HTMLElement} part */
export const stemOf = (part) => /** @type {string} */ (/** @type {HTMLElement} */ (part.closest(".lane")).dataset.stem);

export class Lanes {
  /** @type {Map<string, {lane: HTMLElement, canvas: HTMLCanvasElement, meter: HTMLMeterElement, pictures: Pictures}>} */ #lanes = new Map();
  #asked = 0;
  closed = false; // nothing more is asked of its track

  /** @param {HTMLElement} stage @param {Player} player */
  constructor(stage, player) {
    this.player = player;
    this.stage = stage;
    this.view = { start: 0, stop: player.length };
    const lanes = ["mix", ...Object.keys(player.mixer.lanes)].map((name) => this.#make(name));
    stage.style.setProperty("--count", String(lanes.length));
    $("lanes").replaceChildren(...lanes);
    $("lanes").onclick = (/** @type {any} */ { target }) => target.matches("button") && this.toggle(stemOf(target), target.name);
    $("lanes").oninput = (/** @type {any} */ { target }) => {
      Object.assign(player.mixer.lanes[stemOf(target)], { [target.name]: Number(target.value) });
      this.apply();
    };
    $("lanes").ondblclick = (/** @type {any} */ { target }) => {
      if (!target.matches("input")) return;
      target.value = target.defaultValue;
      target.dispatchEvent(new Event("input", { bubbles: true }));
    };
    for (const area of stage.querySelectorAll(".ruler, .wave")) this.#pointers(/** @type {HTMLElement} */ (area), area.className === "ruler");
    this.apply();
  }

  /** @param {string} name */
  #make(name) {
    const lane = $("lane").content.firstElementChild.cloneNode(true);
    lane.dataset.stem = lane.ariaLabel = lane.querySelector("strong").textContent = name;
    for (const control of lane.querySelectorAll("[aria-label]")) control.ariaLabel += ` ${name}`;
    const pictures = { peaks: new Uint8Array(), spectrogram: new Uint8Array() };
    this.#lanes.set(name, { lane, canvas: lane.querySelector("canvas"), meter: lane.querySelector("meter"), pictures });
    return lane;
  }

  /** @param {string} name @param {"muted" | "solo"} what */
  toggle(name, what) {
    const state = this.player.mixer.lanes[name];
    state[what] = !state[what];
    this.apply();
  }

  /** After a change of the mixer. */
  apply() {
    const { mixer } = this.player;
    this.player.apply();
    for (const [name, { lane }] of this.#lanes) {
      lane.toggleAttribute("data-off", !mixer.heard(name));
      for (const button of lane.querySelectorAll("button")) press(button, mixer.lanes[name]?.[/** @type {"muted" | "solo"} */ (button.name)]);
    }
  }

  /** @param {PointerEvent | WheelEvent} event @param {HTMLElement} area */
  #sample(event, area) {
    const box = area.getBoundingClientRect();
    const part = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    return this.view.start + part * (this.view.stop - this.view.start);
  }

  /** Dragging scrubs, or makes a loop. @param {HTMLElement} area @param {boolean} scrub */
  #pointers(area, scrub) {
    let [first, from] = [0, 0]; // where it went down: a sample, a pixel
    const held = (/** @type {PointerEvent} */ event) => area.hasPointerCapture(event.pointerId);
    area.onpointerdown = (event) => {
      if (event.button) return;
      area.setPointerCapture(event.pointerId);
      [first, from] = [this.#sample(event, area), event.clientX];
      if (scrub) this.player.seek(first);
    };
    area.onpointermove = (event) => {
      if (!held(event)) return;
      if (scrub) this.player.seek(this.#sample(event, area));
      else if (Math.abs(event.clientX - from) > DRAG) this.#showLoop(between(first, this.#sample(event, area)));
    };
    area.onpointerup = (event) => {
      if (scrub || !held(event)) return;
      if (Math.abs(event.clientX - from) <= DRAG) return this.player.seek(first);
      const loop = between(first, this.#sample(event, area));
      this.player.setLoop(true, loop);
      this.player.seek(loop.start);
    };
    area.onpointercancel = () => this.move();
    area.onwheel = (event) => {
      if (event.ctrlKey) return; // the browser's own zoom
      event.preventDefault();
      const span = this.view.stop - this.view.start;
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.scroll(this.view.start + ((event.deltaX || event.deltaY) / 800) * span);
      else this.zoom(1.0025 ** event.deltaY, this.#sample(event, area));
    };
  }

  /** Show `factor` times as much, `fixed` staying where it is. @param {number} factor @param {number} [fixed] */
  zoom(factor, fixed = this.player.position) {
    const { length } = this.player;
    const span = this.view.stop - this.view.start;
    const wanted = Math.min(length, Math.max(SHORTEST * this.player.track.rate, span * factor));
    const inside = fixed >= this.view.start && fixed <= this.view.stop ? fixed : (this.view.start + this.view.stop) / 2;
    this.view.stop = this.view.start + wanted;
    this.scroll(inside - ((inside - this.view.start) / span) * wanted);
  }

  /** @param {number} start */
  scroll(start) {
    const span = this.view.stop - this.view.start;
    this.view.start = Math.max(0, Math.min(start, this.player.length - span));
    this.view.stop = this.view.start + span;
    this.draw();
  }

  get spectrogram() {
    return this.stage.classList.contains("spectrogram");
  }

  /** Fetch what there is more of the pictures that are shown, and draw them. */
  async grow() {
    const { engine, track, length } = this.player;
    const kind = this.spectrogram ? "spectrogram" : "peaks";
    const whole = this.spectrogram ? BANDS * Math.ceil(length / COLUMN) : 2 * Math.ceil(length / PEAK);
    for (const [name, { pictures }] of this.#lanes) {
      const before = pictures[kind];
      if (this.closed || before.length >= whole) continue;
      const more = await engine.picture(track, name, kind, before.length);
      pictures[kind] = new Uint8Array(before.length + more.length);
      pictures[kind].set(before);
      pictures[kind].set(more, before.length);
    }
    this.draw();
  }

  /** Playhead, loop and meters, as things are now. */
  move() {
    const { position, playing, looping, loop } = this.player;
    if (playing && (position > this.view.stop || position < this.view.start)) this.scroll(position);
    const part = (position - this.view.start) / (this.view.stop - this.view.start);
    $("playhead").style.left = `${part * 100}%`;
    this.#showLoop(looping ? loop : null);
    for (const [name, { meter }] of this.#lanes) {
      const level = this.player.meter(name);
      meter.value = Math.max(level, meter.value * 0.9);
    }
  }

  /** @param {Region | null} loop */
  #showLoop(loop) {
    const span = this.view.stop - this.view.start;
    $("loop").hidden = !loop;
    if (!loop) return;
    $("loop").style.left = `${((loop.start - this.view.start) / span) * 100}%`;
    $("loop").style.width = `${((loop.stop - loop.start) / span) * 100}%`;
  }

  /** Draw all lanes, before the next frame. */
  draw() {
    cancelAnimationFrame(this.#asked);
    this.#asked = requestAnimationFrame(() => {
      this.#drawRuler();
      for (const { lane, canvas, pictures } of this.#lanes.values()) {
        const pen = this.#pen(canvas);
        if (!pen) continue;
        const hue = getComputedStyle(lane).getPropertyValue("--hue");
        if (this.spectrogram) this.#drawSpectrogram(pen, pictures.spectrogram, hue);
        else this.#drawWave(pen, new Int8Array(pictures.peaks.buffer), hue);
      }
      this.move();
    });
  }

  /** A context of the canvas, cleared, of as many pixels as the screen has there. @param {HTMLCanvasElement} canvas */
  #pen(canvas) {
    const ratio = Math.min(2, devicePixelRatio);
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!width || !height) return null;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.clearRect(0, 0, width, height);
    return pen;
  }

  /** @param {CanvasRenderingContext2D} pen @param {Int8Array} peaks @param {string} hue */
  #drawWave(pen, peaks, hue) {
    const { width, height } = pen.canvas;
    const [step, half] = [(this.view.stop - this.view.start) / width / PEAK, height / 2];
    pen.fillStyle = hue;
    for (let x = 0, at = this.view.start / PEAK; x < width; x++, at += step) {
      let [low, high] = [127, -127];
      for (let i = Math.floor(at), stop = Math.min(Math.max(i + 1, at + step), peaks.length / 2); i < stop; i++) {
        low = Math.min(low, peaks[2 * i]);
        high = Math.max(high, peaks[2 * i + 1]);
      }
      if (high < low) low = high = 0;
      pen.fillRect(x, half - (high / 127) * half, 1, Math.max(1, ((high - low) / 127) * half));
    }
  }

  /** @param {CanvasRenderingContext2D} pen @param {Uint8Array} levels @param {string} hue */
  #drawSpectrogram(pen, levels, hue) {
    const { width, height } = pen.canvas;
    const step = (this.view.stop - this.view.start) / width / COLUMN;
    pen.fillStyle = hue;
    const [red, green, blue] = /** @type {string[]} */ (pen.fillStyle.match(/[0-9a-f]{2}/gi)).map((digits) => parseInt(digits, 16));
    const image = new ImageData(width, BANDS);
    for (let x = 0, at = this.view.start / COLUMN; x < width; x++, at += step) {
      const last = Math.min(Math.max(Math.floor(at) + 1, at + step), levels.length / BANDS);
      for (let band = 0; band < BANDS; band++) {
        let level = 0;
        for (let i = Math.floor(at); i < last; i++) level = Math.max(level, levels[i * BANDS + band]);
        image.data.set([red, green, blue, (level * level) / 255], 4 * ((BANDS - 1 - band) * width + x));
      }
    }
    const buffer = new OffscreenCanvas(width, BANDS);
    buffer.getContext("2d")?.putImageData(image, 0, 0);
    pen.drawImage(buffer, 0, 0, width, height);
  }

  #drawRuler() {
    const pen = this.#pen($("ruler"));
    if (!pen) return;
    const { width, height } = pen.canvas;
    const { rate } = this.player.track;
    const [start, span] = [this.view.start / rate, (this.view.stop - this.view.start) / rate];
    const steps = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600];
    const step = steps.find((seconds) => (seconds / span) * width > height * 4) ?? 3600;
    pen.fillStyle = getComputedStyle($("ruler")).color;
    pen.font = `${height * 0.5}px system-ui`;
    for (let tick = Math.ceil(start / step) * step; tick < start + span; tick += step) {
      const x = Math.round(((tick - start) / span) * width);
      pen.fillRect(x, height * 0.65, 1, height);
      pen.fillText(step < 1 ? tick.toFixed(1) : clock(tick), x + height * 0.15, height * 0.65);
    }
  }
}
