// @ts-check
/** The engine behind the page, over the studio's HTTP API. `engine-wasm.js` has the same methods.
 * @typedef {{name: string, stems: string[], about: string, fetch: number | null, licence: string, pace: number}} Model
 * @typedef {{model: string, stems: string[] | null, shifts: number | null, overlap: number | null}} Wish
 * @typedef {{id: string, name: string, state: string, seconds: number, samplerate: number, rate: number, length: number, ready: number,
 *   sources: string[], stem_channels: number, stage: string | null, part: number, seconds_left: number | null, error: string | null,
 *   took: number | null, wish: Wish | null, order: number}} Track
 * @typedef {{stems: string | null, mix: string | null, format: string, bits: number, rate: string, start: number, stop: number}} Saving
 * @typedef {{track: (track: Track) => void, removed: (id: string) => void, trouble: (text: string) => void,
 *   model: (name: string, part: number, error?: string | null) => void}} Listener `trouble`: why nothing goes on; "": it does
 * @typedef {typeof engine} Engine that of the browser has no `inspect`, `trace` and `ablate`
 */

const AWAY = "The studio does not answer. Start it again with demucs-np studio; this page goes on by itself then.";

/** @param {string} path @param {RequestInit} [options] */
async function call(path, options) {
  const answer = await fetch(path, options).catch(() => {
    throw new Error(AWAY);
  });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Error(typeof body.detail === "string" ? body.detail : `the studio answered ${answer.status}`);
}

/** @param {string} path @param {RequestInit} [options] */
const json = async (path, options) => (await call(path, options)).json();

/** @param {string} path @param {object} [body] */
const post = (path, body) => json(path, { method: "POST", ...(body && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }) });

/** @param {string} path */
const bytes = async (path) => (await call(path)).arrayBuffer();

/** @param {string} model */
const at = (model) => `api/models/${encodeURIComponent(model)}`;

export const engine = {
  /** @returns {Promise<Model[]>} */
  models: () => json("api/models"),

  /** Begin to fetch a model; the listener is told how far it is. @param {string} name @returns {Promise<unknown>} */
  fetchModel: (name) => post(`${at(name)}/fetch`),

  /** Tell of every track, oldest first, and from then on of whatever happens. @param {Listener} listener */
  async listen(listener) {
    /** @type {Track[]} */ let known = [];
    const tell = async () => {
      /** @type {Track[]} */ const tracks = (await json("api/tracks")).reverse();
      for (const { id } of known) if (!tracks.some((track) => track.id === id)) listener.removed(id);
      for (const track of (known = tracks)) listener.track(track);
    };
    await tell();
    const source = new EventSource("api/events");
    source.onopen = () => (listener.trouble(""), tell());
    source.onerror = () => listener.trouble(AWAY); // the browser tries again by itself
    source.onmessage = (message) => {
      const event = JSON.parse(message.data);
      if (event.track) listener.track(event.track);
      if (event.removed) listener.removed(event.removed);
      if (event.model) listener.model(event.model, event.part ?? 0, event.error);
    };
  },

  /** @param {File} file @returns {Promise<Track>} */
  open: (file) => json(`api/tracks?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file }),

  /** The bundled song. @returns {Promise<Track>} */
  demo: () => post("api/demo"),

  /** @param {Track} track @param {Wish} wish @returns {Promise<unknown>} */
  separate: (track, wish) => post(`api/tracks/${track.id}/separate`, wish),

  /** @param {Track} track @returns {Promise<unknown>} */
  cancel: (track) => post(`api/tracks/${track.id}/cancel`),

  /** @param {Track} track @returns {Promise<unknown>} */
  remove: (track) => call(`api/tracks/${track.id}`, { method: "DELETE" }),

  /** Samples `start` ... `stop` - 1 of a stem or "mix", its channels; fewer where it ends, or is not ready.
   * @param {Track} track @param {string} stem @param {number} start @param {number} stop @returns {Promise<Float32Array[]>} */
  async audio(track, stem, start, stop) {
    const channels = track.stem_channels;
    const frames = new Float32Array(await bytes(`api/tracks/${track.id}/audio/${stem}?start=${start}&stop=${stop}`));
    const sides = Array.from({ length: channels }, () => new Float32Array(frames.length / channels));
    for (const [c, side] of sides.entries()) for (let i = 0; i < side.length; i++) side[i] = frames[i * channels + c];
    return sides;
  },

  /** From byte `start` on what is drawn of a stem or "mix", as `pictures.js` makes it.
   * @param {Track} track @param {string} stem @param {"peaks" | "spectrogram"} kind @param {number} start */
  picture: async (track, stem, kind, start) => new Uint8Array(await bytes(`api/tracks/${track.id}/${kind}/${stem}?start=${start}`)),

  /** What is to be saved as an address, at once, and what it is called if it is one stem: else the answer says that.
   * @param {Track} track @param {Saving} saving @returns {{url: string, name: string} | Promise<{url: string, name: string}>} */
  export(track, saving) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(saving)) if (value !== null) query.set(name, String(value));
    const name = `${track.name.replace(/\.\w+$/, "")} - ${saving.stems}.${saving.format}`;
    return { url: new URL(`api/tracks/${track.id}/export?${query}`, location.href).href, name };
  },

  /** What only the studio can: look inside, and name a file before it is made, so that it can be dragged out. */
  native: true,

  /** What a model is made of. @param {string} model @param {number} member of a bag, which one @returns {Promise<import("./inside.js").Outline>} */
  inspect: (model, member) => json(`${at(model)}/inside?member=${member}`),

  /** A layer's activations as a picture and numbers. @param {Track} track @param {{model: string, member: number, layer: string, at: number}} wanted
   * @returns {Promise<import("./inside.js").Look>} */
  trace: (track, wanted) => post(`api/tracks/${track.id}/trace`, wanted),

  /** The stems of a region with and without parts. @param {Track} track
   * @param {{model: string, member: number, ablate: string[], start: number, stop: number}} wanted
   * @returns {Promise<{stems: import("./inside.js").Changed[], rate: number}>} */
  ablate: (track, wanted) => post(`api/tracks/${track.id}/ablate`, wanted),
};
