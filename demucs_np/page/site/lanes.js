// @ts-check
/** The lanes of a track: what each stem looks like, its knobs, the loop and the playhead. All lanes show the same part, `view`, in samples. */

import { BANDS, COLUMN, HIGHEST, LOWEST, PEAK } from "./pictures.js";
import { clock } from "./words.js";

/** @typedef {import("./player.js").Player} Player
 * @typedef {import("./player.js").Region} Region
 * @typedef {{peaks: Int8Array, spectrogram: Uint8Array}} Pictures
 * @typedef {{save: (stem: string) => void, address: (stem: string) => {url: string, name: string} | null}} Hooks */

const SHORTEST = 2; // seconds that fill the width, at least
const DRAG = 4; // pixels: less is a click

/** @template {keyof HTMLElementTagNameMap} T @param {T} tag @param {Object<string, string>} [attributes] @param {(Node | string)[]} children */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** @template {Int8Array | Uint8Array} T @param {T} first @param {T} second @returns {T} */
export function joined(first, second) {
  const both = new (/** @type {any} */ (first.constructor))(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}

export class Lanes {
  /** @type {Map<string, {lane: HTMLElement, canvas: HTMLCanvasElement, meter: HTMLMeterElement, refresh: () => void}>} */ #lanes = new Map();
  /** @type {Map<string, Pictures>} */ pictures = new Map();
  #asked = 0;
  spectrogram = false;

  /** @param {HTMLElement} stage @param {Player} player @param {Hooks} hooks */
  constructor(stage, player, hooks) {
    this.player = player;
    this.hooks = hooks;
    this.view = { start: 0, stop: player.length };
    this.ruler = make("canvas", { "aria-hidden": "true" });
    this.loop = make("div", { class: "loop" });
    this.head = make("div", { class: "playhead" });
    const ruler = make("div", { class: "ruler" }, this.ruler);
    const over = make("div", { class: "over", "aria-hidden": "true" }, this.loop, this.head);
    const lanes = ["mix", ...player.mixer.lanes.keys()].map((name, number) => this.#make(name, number));
    stage.style.setProperty("--count", String(lanes.length));
    stage.replaceChildren(ruler, ...lanes, over);
    this.#pointers(ruler, true);
    for (const { canvas } of this.#lanes.values()) this.#pointers(/** @type {HTMLElement} */ (canvas.parentElement), false);
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(stage);
    this.refresh();
  }

  close() {
    this.resized.disconnect();
  }

  /** @param {string} name @param {number} number */
  #make(name, number) {
    const canvas = make("canvas", { role: "img", "aria-label": `waveform of ${name}` });
    const meter = make("meter", { min: "0", max: "1", low: "0.7", high: "0.98", optimum: "0.4", "aria-label": `${name} level` });
    const side = make("div", { class: "side" }, make("strong", {}, name));
    const lane = make("div", { class: "lane", role: "group", "aria-label": name, "data-stem": name }, side, make("div", { class: "wave" }, canvas));
    let refresh = () => {};
    if (name === "mix") side.append(make("small", {}, "the original"), meter);
    else {
      const state = this.player.mixer.lane(name);
      const mute = make("button", { class: "mute", "aria-label": `mute ${name}`, title: `mute (shift + ${number})` }, "M");
      const solo = make("button", { class: "solo", "aria-label": `solo ${name}`, title: `solo (${number})` }, "S");
      const save = make("a", { class: "grip", href: "#", draggable: "true", "aria-label": `save ${name}`, title: "save it, or drag it out of the window" }, "⤓");
      const volume = make("input", { type: "range", min: "0", max: "1.5", step: "0.01", value: "1", "aria-label": `${name} volume`, title: "volume" });
      const pan = make("input", { type: "range", min: "-1", max: "1", step: "0.05", value: "0", "aria-label": `${name} pan`, title: "left, right", class: "pan" });
      mute.onclick = () => this.toggle(name, "muted");
      solo.onclick = () => this.toggle(name, "solo");
      volume.oninput = pan.oninput = () => {
        [state.volume, state.pan] = [Number(volume.value), Number(pan.value)];
        this.player.apply();
      };
      volume.ondblclick = () => this.#reset(volume, "1");
      pan.ondblclick = () => this.#reset(pan, "0");
      save.onclick = (event) => (event.preventDefault(), this.hooks.save(name));
      save.ondragstart = (event) => {
        const file = this.hooks.address(name);
        if (file) event.dataTransfer?.setData("DownloadURL", `application/octet-stream:${file.name}:${file.url}`);
      };
      side.append(mute, solo, save, volume, pan, meter);
      refresh = () => {
        mute.setAttribute("aria-pressed", String(state.muted));
        solo.setAttribute("aria-pressed", String(state.solo));
        lane.toggleAttribute("data-off", this.player.mixer.level(name) === 0 && state.volume > 0);
      };
    }
    this.#lanes.set(name, { lane, canvas, meter, refresh });
    this.pictures.set(name, { peaks: new Int8Array(), spectrogram: new Uint8Array() });
    return lane;
  }

  /** @param {HTMLInputElement} input @param {string} value */
  #reset(input, value) {
    input.value = value;
    input.dispatchEvent(new Event("input"));
  }

  /** @param {string} name @param {"muted" | "solo"} what */
  toggle(name, what) {
    const state = this.player.mixer.lane(name);
    state[what] = !state[what];
    this.player.apply();
    this.refresh();
  }

  /** After a change of the mixer. */
  refresh() {
    for (const { refresh } of this.#lanes.values()) refresh();
    this.#lanes.get("mix")?.lane.toggleAttribute("data-off", !this.player.mixer.original);
  }

  /** @param {PointerEvent | WheelEvent} event @param {HTMLElement} area */
  #sample(event, area) {
    const box = area.getBoundingClientRect();
    const part = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    return this.view.start + part * (this.view.stop - this.view.start);
  }

  /** Dragging scrubs, or makes a loop. @param {HTMLElement} area @param {boolean} scrub */
  #pointers(area, scrub) {
    area.onpointerdown = (down) => {
      if (down.button) return;
      const first = this.#sample(down, area);
      area.setPointerCapture(down.pointerId);
      if (scrub) this.player.seek(first);
      area.onpointermove = (move) => {
        if (scrub) this.player.seek(this.#sample(move, area));
        else if (Math.abs(move.clientX - down.clientX) > DRAG) this.#showLoop(this.#between(first, this.#sample(move, area)));
      };
      area.onpointerup = (up) => {
        area.onpointermove = area.onpointerup = area.onpointercancel = null;
        if (scrub) return;
        if (Math.abs(up.clientX - down.clientX) <= DRAG) return this.player.seek(first);
        const loop = this.#between(first, this.#sample(up, area));
        this.player.setLoop(true, loop);
        this.player.seek(loop.start);
      };
      area.onpointercancel = () => {
        area.onpointermove = area.onpointerup = area.onpointercancel = null;
        this.move();
      };
    };
    area.addEventListener("wheel", (event) => {
      if (event.ctrlKey) return; // the browser's own zoom
      event.preventDefault();
      const span = this.view.stop - this.view.start;
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.scroll(this.view.start + ((event.deltaX || event.deltaY) / 800) * span);
      else this.zoom(1.0025 ** event.deltaY, this.#sample(event, area));
    }, { passive: false }); // prettier-ignore
  }

  /** @param {number} first @param {number} second @returns {Region} */
  #between(first, second) {
    return { start: Math.min(first, second), stop: Math.max(first, second) };
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

  /** The track has got its final length. */
  fit() {
    if (this.view.stop > this.player.length || this.view.start === 0) this.view = { start: 0, stop: this.player.length };
    this.draw();
  }

  /** Playhead, loop and meters, as things are now. */
  move() {
    const { position, playing, looping, loop } = this.player;
    const { start, stop } = this.view;
    if (playing && (position > stop || position < start)) this.scroll(position);
    const part = (position - this.view.start) / (this.view.stop - this.view.start);
    this.head.style.left = `${part * 100}%`;
    this.#showLoop(looping ? loop : null);
    for (const [name, { meter }] of this.#lanes) {
      const level = this.player.meter(name);
      meter.value = Math.max(level, meter.value * 0.9);
    }
  }

  /** @param {Region | null} loop */
  #showLoop(loop) {
    const span = this.view.stop - this.view.start;
    this.loop.hidden = !loop;
    if (!loop) return;
    this.loop.style.left = `${((loop.start - this.view.start) / span) * 100}%`;
    this.loop.style.width = `${((loop.stop - loop.start) / span) * 100}%`;
  }

  /** Draw all lanes, before the next frame. */
  draw() {
    cancelAnimationFrame(this.#asked);
    this.#asked = requestAnimationFrame(() => {
      this.#drawRuler();
      for (const [name, { lane, canvas }] of this.#lanes) {
        const pen = this.#pen(canvas);
        const pictures = this.pictures.get(name);
        if (!pen || !pictures) continue;
        const hue = getComputedStyle(lane).getPropertyValue("--hue");
        if (this.spectrogram) this.#drawSpectrogram(pen, pictures.spectrogram, hue);
        else this.#drawWave(pen, pictures.peaks, hue);
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
    pen.fillStyle = getComputedStyle(pen.canvas).color;
    pen.font = `${height / 7}px system-ui`;
    for (const [hertz, text] of /** @type {[number, string][]} */ ([[100, "100 Hz"], [1000, "1 kHz"], [8000, "8 kHz"]])) {
      pen.fillText(text, 4, height * (1 - Math.log(hertz / LOWEST) / Math.log(HIGHEST / LOWEST)));
    }
  }

  #drawRuler() {
    const pen = this.#pen(this.ruler);
    if (!pen) return;
    const { width, height } = pen.canvas;
    const { rate } = this.player.track;
    const [start, span] = [this.view.start / rate, (this.view.stop - this.view.start) / rate];
    const steps = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600];
    const step = steps.find((seconds) => (seconds / span) * width > height * 4) ?? 3600;
    pen.fillStyle = getComputedStyle(this.ruler).color;
    pen.font = `${height * 0.5}px system-ui`;
    for (let tick = Math.ceil(start / step) * step; tick < start + span; tick += step) {
      const x = Math.round(((tick - start) / span) * width);
      pen.fillRect(x, height * 0.65, 1, height);
      pen.fillText(step < 1 ? tick.toFixed(1) : clock(tick), x + height * 0.15, height * 0.65);
    }
  }
}
