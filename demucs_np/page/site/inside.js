// @ts-check
/** Look inside: the model as a diagram, what a layer makes of the time under the playhead, and what is heard without a part of it.
 *
 *     const inside = mountInside(container, { engine, track, player });   // fills the container, which gets the class `inside`
 *     inside.close();                                                     // stops what sounds and empties it
 *
 * The page gives the engine of the studio (`inspect`, `trace`, `ablate` of engine-studio.js), a separated track, and the player, of which
 * `position`, `loop`, `playing` and `pause()` are used; styles are in inside.css. What is heard with and without a part are two loops
 * that start on the same frame; A|B only turns one down and the other up.
 */

import { make } from "./lanes.js";

/** @typedef {import("./engine-studio.js").StudioEngine} Engine
 * @typedef {import("./engine-studio.js").Track} Track
 * @typedef {import("./player.js").Player} Player
 * @typedef {{path: string, heads: number}} Part
 * @typedef {{path: string, class: string, shape: number[] | null, parameters: number, multiply_adds: number, heads: number, looks: string[], parts: Part[]}} Layer
 * @typedef {{model: string, member: number, members: string[], class: string, parameters: number, multiply_adds: number, seconds: number, longest: number,
 *   groups: {name: string, layers: Layer[]}[]}} Outline
 * @typedef {{title: string, left: number, top: number, width: number, height: number}} Panel
 * @typedef {{layer: string, picture: string, begin: number, seconds: number, panels: Panel[], shape: number[], minimum: number, maximum: number, rms: number,
 *   heads?: {head: number, reach: number}[]}} Look
 * @typedef {{stem: string, plain: string, ablated: string, level: number, ablated_level: number, change: number, difference: number}} Changed */

const ROWS = { encoder: "frequency", decoder: "frequency", tencoder: "time", tdecoder: "time" };
const EASE = 0.01; // seconds of a flip, against clicks
const HEARD = 6; // seconds that are heard where no loop is set

/** @param {number} count */
const short = (count) => (count >= 1e9 ? `${(count / 1e9).toFixed(2)} G` : count >= 1e6 ? `${(count / 1e6).toFixed(1)} M` : `${Math.round(count / 1e3)} k`);
/** @param {number} value */
const decibels = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)} dB`;

/** What of a part's path is to be read in its layer. @param {string} path @param {string} layer */
const within = (path, layer) => path.slice(layer.length + 1) || "output";

class Inside {
  /** @type {Outline | null} */ outline = null;
  /** @type {Layer | null} */ layer = null;
  /** @type {Look | null} */ look = null;
  /** @type {Set<string>} what is switched off */ off = new Set();
  /** @type {AudioContext | null} */ context = null;
  /** @type {Record<string, GainNode>} */ gains = {};
  /** @type {Changed[]} */ changes = [];
  #asking = false;
  #wanted = "";
  #failed = "";
  #open = true;

  /** @param {HTMLElement} container @param {{engine: Engine, track: Track, player: Player}} given */
  constructor(container, { engine, track, player }) {
    Object.assign(this, { container, engine, track, player });
    this.container = container;
    this.engine = engine;
    this.track = track;
    this.player = player;
    container.classList.add("inside");
    this.head = make("p", { class: "facts" }, "Reading the model …");
    this.map = make("div", { class: "map", role: "group", "aria-label": "Layers of the model" });
    this.detail = make("div", { class: "detail" });
    this.hear = make("div", { class: "hear" });
    this.said = make("p", { class: "said", role: "status" });
    container.replaceChildren(this.head, this.map, this.detail, this.hear, this.said);
    this.start().catch((error) => this.say(error.message));
  }

  /** @param {string} text */
  say(text) {
    this.said.textContent = text;
  }

  async start(member = 0) {
    const outline = (this.outline = await this.engine.inspect(this.track.wish?.model ?? "demo", member));
    this.off.clear();
    const facts = `${outline.class} · ${short(outline.parameters)} parameters · ${short(outline.multiply_adds)} multiply-adds a segment`;
    const choice = make("select", { "aria-label": "Model of the bag" }, ...outline.members.map((name, at) => make("option", { value: String(at) }, name)));
    choice.value = String(member);
    choice.onchange = () => this.start(Number(choice.value)).catch((error) => this.say(error.message));
    this.head.replaceChildren(make("b", {}, outline.model), ` ${facts} `, ...(outline.members.length > 1 ? [choice] : []));
    this.draw();
    this.drawHear();
    this.choose(outline.groups[0].layers[0]);
  }

  /** Encoders lead down to the left, decoders up to the right; the transformer joins both below. */
  draw() {
    const outline = /** @type {Outline} */ (this.outline);
    const most = Math.max(...outline.groups.flatMap(({ layers }) => layers.map((layer) => layer.multiply_adds)));
    const groups = outline.groups.map(({ name, layers }) => {
      const inwards = name.endsWith("encoder");
      const tiles = layers.map((layer, at) => {
        const tile = make("button", { "data-path": layer.path, "aria-pressed": "false", title: `${layer.class}: ${short(layer.multiply_adds)} multiply-adds` });
        const work = make("i", { "aria-hidden": "true" });
        work.style.width = `${Math.max(4, (100 * layer.multiply_adds) / most)}%`;
        tile.append(make("span", {}, layer.path.replace("crosstransformer.", "")), work);
        if (name !== "crosstransformer") tile.style.marginTop = `${8 * (inwards ? at : layers.length - 1 - at)}px`;
        tile.onclick = () => this.choose(layer);
        return tile;
      });
      const place = make("div", { class: "group", "data-group": name, role: "group", "aria-label": name }, ...tiles);
      const row = /** @type {Record<string, string>} */ (ROWS)[name];
      if (row && inwards) place.dataset.row = row;
      return place;
    });
    this.map.replaceChildren(...groups);
    this.mark();
  }

  /** Which layer is chosen, and where something is off. */
  mark() {
    for (const tile of /** @type {NodeListOf<HTMLElement>} */ (this.map.querySelectorAll("[data-path]"))) {
      const path = `${tile.dataset.path}.`;
      tile.setAttribute("aria-pressed", String(this.layer?.path === tile.dataset.path));
      tile.toggleAttribute("data-off", [...this.off].some((part) => part.startsWith(path)));
    }
  }

  /** @param {Layer} layer */
  choose(layer) {
    this.layer = layer;
    this.mark();
    const looks = layer.looks.map((path) => {
      const button = make("button", { "aria-pressed": "false", "data-look": path }, within(path, layer.path));
      button.onclick = () => this.see(path);
      return button;
    });
    const switches = layer.parts.map((part) => this.part(part, layer));
    const picture = make("figure", {}, make("img", { alt: "" }), make("div", { class: "heads" }), make("figcaption"));
    const shape = layer.shape ? `(${layer.shape.join(", ")})` : "";
    this.detail.replaceChildren(
      make("h3", {}, layer.path, make("small", {}, ` ${layer.class} ${shape} · ${short(layer.parameters)} parameters`)),
      make("div", { class: "row", role: "group", "aria-label": "What is seen" }, ...looks),
      picture,
      make("div", { class: "parts", role: "group", "aria-label": "What is switched on" }, ...switches),
    );
    this.see(layer.looks[0]);
  }

  /** A switch, and one for each head. @param {Part} part @param {Layer} layer */
  part({ path, heads }, layer) {
    const toggle = (/** @type {string} */ name, /** @type {string} */ text) => {
      const button = make("button", { role: "switch", "aria-checked": String(!this.off.has(name)), "data-part": name, "aria-label": name }, text);
      button.onclick = () => {
        if (!this.off.delete(name)) this.off.add(name);
        button.setAttribute("aria-checked", String(!this.off.has(name)));
        this.mark();
        this.drawHear();
      };
      return button;
    };
    const each = Array.from({ length: heads }, (_, head) => toggle(`${path}:${head}`, String(head)));
    return make("div", { class: "part" }, toggle(path, within(path, layer.path)), ...(heads ? [make("span", {}, "heads"), ...each] : []));
  }

  get time() {
    return this.player.position / this.track.rate;
  }

  /** The picture of an activation around the playhead; of several that are asked for meanwhile, the last. @param {string} path */
  async see(path) {
    this.#wanted = path;
    for (const button of this.detail.querySelectorAll("[data-look]")) button.setAttribute("aria-pressed", String(button.getAttribute("data-look") === path));
    if (this.#asking) return;
    this.#asking = true;
    const { model, member, seconds } = /** @type {Outline} */ (this.outline);
    while (this.#open && this.#wanted) {
      const layer = this.#wanted;
      this.#wanted = this.#failed = "";
      try {
        const look = await this.engine.trace(this.track, { model, member, layer, at: Math.max(0, this.time - seconds / 8) });
        if (this.#open && !this.#wanted) this.show(look);
      } catch (error) {
        this.#failed = layer; // not again for every frame
        this.say(/** @type {Error} */ (error).message);
      }
    }
    this.#asking = false;
  }

  /** @param {Look} look */
  show(look) {
    this.look = look;
    const figure = /** @type {HTMLElement} */ (this.detail.querySelector("figure"));
    const image = /** @type {HTMLImageElement} */ (figure.querySelector("img"));
    image.src = look.picture;
    const end = look.begin + look.seconds;
    image.alt = `${look.layer} from ${look.begin.toFixed(1)} to ${end.toFixed(1)} s`;
    const lines = look.panels.map((panel) => {
      const line = make("i", { class: "line", "aria-hidden": "true" });
      Object.assign(line.style, { top: `${100 * panel.top}%`, height: `${100 * panel.height}%` });
      return line;
    });
    /** @type {HTMLElement} */ (figure.querySelector(".heads")).replaceChildren(...lines);
    const reach = look.heads?.map(({ head, reach: far }) => `head ${head} ${far.toFixed(2)} s`).join(", ");
    const words = `${image.alt} · shape (${look.shape.join(", ")}) · ${look.minimum.toPrecision(3)} to ${look.maximum.toPrecision(3)}`;
    /** @type {HTMLElement} */ (figure.querySelector("figcaption")).textContent = words + (reach ? ` · how far each looks: ${reach}` : "");
    this.say("");
    this.follow();
  }

  /** The playhead in every panel; a new picture where it has left this one. */
  follow() {
    cancelAnimationFrame(this.frame ?? 0);
    if (!this.#open) return;
    const look = this.look;
    if (look) {
      const part = (this.time - look.begin) / look.seconds;
      const lines = /** @type {NodeListOf<HTMLElement>} */ (this.detail.querySelectorAll(".line"));
      lines.forEach((line, at) => {
        const { left, width } = look.panels[at];
        line.hidden = part < 0 || part > 1;
        line.style.left = `${100 * (left + width * part)}%`;
      });
      if ((part < 0 || part > 1) && !this.#asking && this.#failed !== look.layer && this.time + 0.01 < this.track.seconds) this.see(look.layer);
    }
    this.frame = requestAnimationFrame(() => this.follow());
  }

  drawHear() {
    this.silence();
    const off = [...this.off].sort();
    const render = make("button", { class: "primary" }, "Hear it");
    render.disabled = !off.length;
    render.onclick = () => this.render(render, off).catch((error) => this.say(error.message));
    const all = make("button", {}, "Switch all on");
    all.disabled = !off.length;
    all.onclick = () => {
      this.off.clear();
      if (this.layer) this.choose(this.layer);
      this.drawHear();
    };
    this.hear.replaceChildren(make("p", {}, off.length ? `Off: ${off.join(", ")}` : "Everything is on. Switch a part off to hear what it does."), render, all);
  }

  /** The loop, or what follows the playhead, with and without. @param {HTMLButtonElement} button @param {string[]} ablate */
  async render(button, ablate) {
    const outline = /** @type {Outline} */ (this.outline);
    const { loop } = this.player;
    const start = loop ? loop.start / this.track.rate : Math.min(this.time, Math.max(0, this.track.seconds - HEARD));
    const stop = Math.min(loop ? loop.stop / this.track.rate : start + HEARD, start + outline.longest, this.track.seconds);
    button.disabled = true;
    this.say("Separating it twice …");
    try {
      const answer = await this.engine.ablate(this.track, { model: outline.model, member: outline.member, ablate, start, stop });
      this.changes = answer.stems;
      if (this.#open) await this.listen(answer.rate);
    } finally {
      button.disabled = false;
    }
  }

  /** @param {number} rate */
  async listen(rate) {
    const loudest = this.changes.reduce((most, one) => (one.difference > most.difference ? one : most));
    const stems = this.changes.map((one) => {
      const button = make("button", { "aria-pressed": "false", "data-stem": one.stem }, `${one.stem} ${decibels(one.change)}`);
      button.onclick = () => this.play(one, rate).catch((error) => this.say(error.message));
      return button;
    });
    const flip = make("button", { "aria-pressed": "false", class: "flip" }, "A|B without it");
    flip.onclick = () => this.flip(flip.getAttribute("aria-pressed") !== "true");
    const stop = make("button", {}, "Stop");
    stop.onclick = () => this.silence();
    const old = this.hear.querySelector(".heard");
    old?.remove();
    this.hear.append(make("div", { class: "row heard" }, ...stems, flip, stop));
    await this.play(loudest, rate);
    this.say("");
  }

  /** @param {Changed} one @param {number} rate */
  async play(one, rate) {
    this.silence();
    if (this.player.playing) this.player.pause();
    const context = (this.context = new AudioContext({ sampleRate: rate }));
    const kinds = /** @type {const} */ (["plain", "ablated"]);
    const buffers = await Promise.all(kinds.map(async (kind) => context.decodeAudioData(await this.engine.bytes(one[kind]))));
    if (this.context !== context) return;
    const at = context.currentTime + 0.05;
    kinds.forEach((kind, number) => {
      const gain = (this.gains[kind] = context.createGain());
      const source = context.createBufferSource();
      Object.assign(source, { buffer: buffers[number], loop: true });
      source.connect(gain).connect(context.destination);
      source.start(at);
    });
    for (const button of this.hear.querySelectorAll("[data-stem]")) button.setAttribute("aria-pressed", String(button.getAttribute("data-stem") === one.stem));
    this.flip(false, 0);
  }

  /** Hear it without the parts, or with them. @param {boolean} without */
  flip(without, ease = EASE) {
    this.hear.querySelector(".flip")?.setAttribute("aria-pressed", String(without));
    const now = this.context?.currentTime ?? 0;
    for (const [kind, gain] of Object.entries(this.gains)) gain.gain.setTargetAtTime((kind === "ablated") === without ? 1 : 0, now, ease);
  }

  silence() {
    this.context?.close();
    this.context = null;
    this.gains = {};
    for (const button of this.hear.querySelectorAll("[data-stem]")) button.setAttribute("aria-pressed", "false");
  }

  close() {
    this.#open = false;
    cancelAnimationFrame(this.frame ?? 0);
    this.silence();
    this.container.replaceChildren();
  }
}

/** @param {HTMLElement} container @param {{engine: Engine, track: Track, player: Player}} given */
export function mountInside(container, given) {
  return new Inside(container, given);
}
