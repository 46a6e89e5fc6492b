// @ts-check
/** Look inside: the model as a diagram, what a layer makes of the time under the playhead, and what is heard without a part of it.
 *
 * It fills the page's section `inside` until it is closed; styles are in inside.css. What is heard with and without a part are two loops
 * that start on the same frame; A|B only turns one down and the other up.
 */

import { make, offer, press, pressed } from "./dom.js";
import { Graph, Mixer } from "./player.js";

/** @typedef {import("./engine-studio.js").Track} Track
 * @typedef {import("./player.js").Player} Player
 * @typedef {{path: string, heads: number}} Part
 * @typedef {{path: string, class: string, shape: number[] | null, parameters: number, multiply_adds: number, heads: number, looks: string[], parts: Part[]}} Layer
 * @typedef {{model: string, member: number, members: string[], class: string, parameters: number, multiply_adds: number, seconds: number, longest: number,
 *   groups: {name: string, layers: Layer[]}[]}} Outline
 * @typedef {{title: string, left: number, top: number, width: number, height: number}} Panel
 * @typedef {{layer: string, picture: string, begin: number, seconds: number, panels: Panel[], shape: number[], minimum: number, maximum: number, rms: number,
 *   heads?: {head: number, reach: number}[]}} Look
 * @typedef {{stem: string, plain: string, ablated: string, level: number, ablated_level: number, change: number, difference: number}} Changed */

const ROWS = { encoder: "frequency", tencoder: "time" };
/** @type {("plain" | "ablated")[]} */ const KINDS = ["plain", "ablated"];
const HOURS = 1e9; // frames: more than anybody hears
const EASE = 0.01; // seconds of a flip, against clicks
const HEARD = 6; // seconds that are heard where no loop is set

/** @param {number} count */
const short = (count) => (count >= 1e9 ? `${(count / 1e9).toFixed(2)} G` : count >= 1e6 ? `${(count / 1e6).toFixed(1)} M` : `${Math.round(count / 1e3)} k`);
/** @param {number} value */
const decibels = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)} dB`;

/** What of a part's path is to be read in its layer. @param {string} path @param {string} layer */
const within = (path, layer) => path.slice(layer.length + 1) || "output";

export class Inside {
  /** @type {Set<string>} what is switched off */ off = new Set();
  /** @type {Graph | null} */ graph = null;
  mixer = new Mixer(KINDS);
  /** @type {Look | null} */ look = null;
  outline = /** @type {Outline} */ ({});
  layer = /** @type {Layer} */ ({});
  #asking = false;
  #wanted = "";
  #failed = "";
  #open = true;
  #frame = 0;

  /** @param {HTMLElement} container @param {Player} player */
  constructor(container, player) {
    this.player = player;
    this.engine = player.engine;
    this.track = player.track;
    /** A part of the page by its class. @param {string} name @returns {any} */
    this.$ = (name) => container.querySelector(name);
    this.$(".all").onclick = () => {
      this.off.clear();
      this.choose(this.layer);
    };
    this.$(".render").onclick = () => this.render().catch(this.complain);
    this.$(".flip").onclick = () => this.flip(!pressed(this.$(".flip")));
    this.$(".stop").onclick = () => this.silence();
    this.say = (/** @type {string} */ text) => void (this.$(".said").textContent = text);
    this.complain = (/** @type {Error} */ error) => this.say(error.message);
    this.say("Reading the model …");
    this.start(0).catch(this.complain);
  }

  /** @param {number} member of a bag, which one */
  async start(member) {
    this.outline = await this.engine.inspect(this.track.wish?.model ?? "demo", member);
    const { model, members, groups, parameters, multiply_adds } = this.outline;
    const facts = ` ${this.outline.class} · ${short(parameters)} parameters · ${short(multiply_adds)} multiply-adds a segment `;
    const choice = make("select", { "aria-label": "Model of the bag", onchange: () => this.start(Number(choice.value)).catch(this.complain) });
    offer(choice, members.map((name, at) => [String(at), name]));
    choice.value = String(member);
    this.$(".facts").replaceChildren(make("b", {}, model), facts, ...(members.length > 1 ? [choice] : []));
    this.off.clear();
    this.draw();
    this.choose(groups[0].layers[0]);
  }

  /** Encoders lead down to the left, decoders up to the right; the transformer joins both below. */
  draw() {
    const { groups } = this.outline;
    const most = Math.max(...groups.flatMap(({ layers }) => layers.map((layer) => layer.multiply_adds)));
    const places = groups.map(({ name, layers }) => {
      const tiles = layers.map((layer, at) => {
        const tile = make("button", { "data-path": layer.path, title: `${layer.class}: ${short(layer.multiply_adds)} multiply-adds`, onclick: () => this.choose(layer) });
        const work = make("i", { "aria-hidden": "true" });
        work.style.width = `${Math.max(4, (100 * layer.multiply_adds) / most)}%`;
        tile.append(make("span", {}, layer.path.replace("crosstransformer.", "")), work);
        if (name !== "crosstransformer") tile.style.marginTop = `${8 * (name.endsWith("encoder") ? at : layers.length - 1 - at)}px`;
        return tile;
      });
      const row = /** @type {Record<string, string>} */ (ROWS)[name];
      return make("div", { class: "group", "data-group": name, role: "group", "aria-label": name, ...(row && { "data-row": row }) }, ...tiles);
    });
    this.$(".map").replaceChildren(...places);
  }

  /** @param {Layer} layer */
  choose(layer) {
    this.layer = layer;
    const shape = layer.shape ? `(${layer.shape.join(", ")})` : "";
    this.$("h3").replaceChildren(layer.path, make("small", {}, ` ${layer.class} ${shape} · ${short(layer.parameters)} parameters`));
    this.$(".looks").replaceChildren(...layer.looks.map((path) => make("button", { "data-look": path, onclick: () => this.see(path) }, within(path, layer.path))));
    this.$(".parts").replaceChildren(...layer.parts.map((part) => this.part(part, layer)));
    this.mark();
    this.see(layer.looks[0]);
  }

  /** A switch, and one for each head. @param {Part} part @param {Layer} layer */
  part({ path, heads }, layer) {
    const toggle = (/** @type {string} */ name, /** @type {string} */ text) => {
      const flip = () => {
        if (!this.off.delete(name)) this.off.add(name);
        this.mark();
      };
      return make("button", { role: "switch", "data-part": name, "aria-label": name, onclick: flip }, text);
    };
    const each = Array.from({ length: heads }, (_, head) => toggle(`${path}:${head}`, String(head)));
    return make("div", { class: "part" }, toggle(path, within(path, layer.path)), ...(heads ? [make("span", {}, "heads"), ...each] : []));
  }

  /** Which layer is chosen, and what is off. */
  mark() {
    this.silence();
    const off = [...this.off].sort();
    for (const tile of this.$(".map").querySelectorAll("[data-path]")) {
      press(tile, this.layer.path === tile.dataset.path);
      tile.toggleAttribute("data-off", off.some((part) => part.startsWith(`${tile.dataset.path}.`)));
    }
    for (const button of this.$(".parts").querySelectorAll("button")) button.ariaChecked = String(!this.off.has(button.dataset.part));
    this.$(".off").textContent = off.length ? `Off: ${off.join(", ")}` : "Everything is on. Switch a part off to hear what it does.";
    this.$(".render").disabled = this.$(".all").disabled = !off.length;
    this.$(".heard").hidden = true;
  }

  get time() {
    return this.player.position / this.track.rate;
  }

  /** The picture of an activation around the playhead; of several that are asked for meanwhile, the last. @param {string} path */
  async see(path) {
    this.#wanted = path;
    for (const button of this.$(".looks").children) press(button, button.dataset.look === path);
    if (this.#asking) return;
    this.#asking = true;
    const { model, member, seconds } = this.outline;
    while (this.#open && this.#wanted) {
      const layer = this.#wanted;
      this.#wanted = this.#failed = "";
      try {
        const look = await this.engine.trace(this.track, { model, member, layer, at: Math.max(0, this.time - seconds / 8) });
        if (this.#open && !this.#wanted) this.show(look);
      } catch (error) {
        this.#failed = layer; // not again for every frame
        this.complain(/** @type {Error} */ (error));
      }
    }
    this.#asking = false;
  }

  /** @param {Look} look */
  show(look) {
    this.look = look;
    this.$("img").src = look.picture;
    this.$("img").alt = `${look.layer} from ${look.begin.toFixed(1)} to ${(look.begin + look.seconds).toFixed(1)} s`;
    const lines = look.panels.map(({ left, top, width, height }) => {
      const line = make("i", { class: "line" });
      for (const [name, value] of Object.entries({ left, top, width, height })) line.style.setProperty(`--${name}`, String(value));
      return line;
    });
    this.$(".lines").replaceChildren(...lines);
    const reach = look.heads?.map(({ head, reach: far }) => `head ${head} ${far.toFixed(2)} s`).join(", ");
    const words = `${this.$("img").alt} · shape (${look.shape.join(", ")}) · ${look.minimum.toPrecision(3)} to ${look.maximum.toPrecision(3)}`;
    this.$("figcaption").textContent = words + (reach ? ` · how far each looks: ${reach}` : "");
    this.say("");
    this.follow();
  }

  /** The playhead in every panel; a new picture where it has left this one. */
  follow() {
    cancelAnimationFrame(this.#frame);
    const look = this.look;
    if (!this.#open || !look) return;
    const part = (this.time - look.begin) / look.seconds;
    const out = part < 0 || part > 1;
    this.$(".lines").style.setProperty("--part", part);
    this.$(".lines").hidden = out;
    if (out && !this.#asking && this.#failed !== look.layer && this.time + 0.01 < this.track.seconds) this.see(look.layer);
    this.#frame = requestAnimationFrame(() => this.follow());
  }

  /** The loop, or what follows the playhead, with and without what is off. */
  async render() {
    const { model, member, longest } = this.outline;
    const { loop } = this.player;
    const start = loop ? loop.start / this.track.rate : Math.min(this.time, Math.max(0, this.track.seconds - HEARD));
    const stop = Math.min(loop ? loop.stop / this.track.rate : start + HEARD, start + longest, this.track.seconds);
    const ablate = [...this.off].sort();
    this.$(".render").disabled = true;
    this.say("Separating it twice …");
    try {
      const { stems, rate } = await this.engine.ablate(this.track, { model, member, ablate, start, stop });
      if (!this.#open) return;
      const buttons = stems.map((one) => {
        const hear = () => this.play(one, rate).catch(this.complain);
        return make("button", { "data-stem": one.stem, onclick: hear }, `${one.stem} ${decibels(one.change)}`);
      });
      this.$(".stems").replaceChildren(...buttons);
      this.$(".heard").hidden = false;
      await this.play(stems.reduce((most, one) => (one.difference > most.difference ? one : most)), rate);
      this.say("");
    } finally {
      this.$(".render").disabled = false;
    }
  }

  /** @param {Changed} one @param {number} rate */
  async play(one, rate) {
    this.silence();
    if (this.player.playing) this.player.pause();
    const context = new AudioContext({ sampleRate: rate });
    const graph = (this.graph = new Graph(context, this.mixer));
    this.flip(false);
    const buffers = new Map();
    for (const kind of KINDS) buffers.set(kind, await context.decodeAudioData(await (await fetch(one[kind])).arrayBuffer()));
    if (this.graph !== graph) return;
    for (const source of graph.start({ start: 0, stop: HOURS, buffers }, Math.ceil((context.currentTime + 0.05) * rate), 0, HOURS)) source.loop = true;
    for (const button of this.$(".stems").children) press(button, button.dataset.stem === one.stem);
  }

  /** Hear it without the parts, or with them. @param {boolean} without */
  flip(without) {
    press(this.$(".flip"), without);
    this.mixer.lanes.plain.muted = without;
    this.mixer.lanes.ablated.muted = !without;
    this.graph?.set(this.mixer, EASE);
  }

  silence() {
    /** @type {AudioContext | undefined} */ (this.graph?.context)?.close();
    this.graph = null;
    for (const button of this.$(".stems").children) press(button, false);
  }

  close() {
    this.#open = false;
    cancelAnimationFrame(this.#frame);
    this.silence();
    this.$("img").removeAttribute("src");
    this.$(".lines").replaceChildren();
  }
}
