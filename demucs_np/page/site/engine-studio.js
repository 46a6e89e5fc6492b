// @ts-check
/** The engine behind the page, over the studio's HTTP API. `engine-wasm.js` has the same methods.
 * @typedef {{name: string, stems: string[], about: string, fetch: number | null, licence: string, pace: number}} Model
 * @typedef {{model: string, stems: string[] | null, shifts: number | null, overlap: number | null}} Wish
 * @typedef {{id: string, name: string, state: string, seconds: number, samplerate: number, rate: number, length: number, ready: number,
 *   sources: string[], stem_channels: number, stage: string | null, part: number, seconds_left: number | null, error: string | null,
 *   took: number | null, wish: Wish | null, order: number}} Track
 * @typedef {{stems: string | null, mix: string | null, format: string, bits: number, rate: string, start: number, stop: number}} Saving
 * @typedef {{track: (track: Track) => void, removed: (id: string) => void, connected: (yes: boolean) => void,
 *   model: (name: string, part: number, done: boolean, error: string | null) => void}} Listener
 * @typedef {StudioEngine} Engine
 */

/** @param {string} path @param {RequestInit} [options] */
async function call(path, options) {
  const answer = await fetch(path, options).catch(() => {
    throw new Error("the studio does not answer; start it again with demucs-np studio");
  });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Error(typeof body.detail === "string" ? body.detail : `the studio answered ${answer.status}`);
}

/** @param {string} path */
const bytes = async (path) => (await call(path)).arrayBuffer();

export class StudioEngine {
  formats = ["wav 16", "wav 24", "wav 32", "flac 16", "flac 24", "mp3 16"];

  /** @returns {Promise<Model[]>} */
  async models() {
    return (await call("api/models")).json();
  }

  /** Begin to fetch a model; the listener is told how far it is. @param {string} name */
  async fetchModel(name) {
    await call(`api/models/${encodeURIComponent(name)}/fetch`, { method: "POST" });
  }

  /** Tell of every track, oldest first, and from then on of whatever happens. @param {Listener} listener */
  async listen(listener) {
    /** @type {Track[]} */ let known = [];
    const tell = async () => {
      const tracks = (await (await call("api/tracks")).json()).reverse();
      for (const { id } of known) if (!tracks.some((/** @type {Track} */ track) => track.id === id)) listener.removed(id);
      for (const track of (known = tracks)) listener.track(track);
    };
    await tell();
    const source = new EventSource("api/events");
    source.onopen = () => (listener.connected(true), tell());
    source.onerror = () => listener.connected(false); // the browser tries again by itself
    source.onmessage = (message) => {
      const event = JSON.parse(message.data);
      if (event.track) listener.track(event.track);
      if (event.removed) listener.removed(event.removed);
      if (event.model) listener.model(event.model, event.part ?? 0, event.done ?? false, event.error ?? null);
    };
  }

  /** @param {File} file @returns {Promise<Track>} */
  async open(file) {
    return (await call(`api/tracks?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file })).json();
  }

  /** The bundled song. @returns {Promise<Track>} */
  async demo() {
    return (await call("api/demo", { method: "POST" })).json();
  }

  /** @param {Track} track @param {Wish} wish */
  async separate(track, wish) {
    const headers = { "Content-Type": "application/json" };
    await call(`api/tracks/${track.id}/separate`, { method: "POST", headers, body: JSON.stringify(wish) });
  }

  /** @param {Track} track */
  async cancel(track) {
    await call(`api/tracks/${track.id}/cancel`, { method: "POST" });
  }

  /** @param {Track} track */
  async remove(track) {
    await call(`api/tracks/${track.id}`, { method: "DELETE" });
  }

  /** Samples `start` ... `stop` - 1 of a stem or "mix", interleaved; fewer where it ends, or is not ready.
   * @param {Track} track @param {string} stem @param {number} start @param {number} stop */
  async audio(track, stem, start, stop) {
    return new Float32Array(await bytes(`api/tracks/${track.id}/audio/${stem}?start=${start}&stop=${stop}`));
  }

  /** From byte `start` on: the least and the greatest sample of every 256. @param {Track} track @param {string} stem @param {number} start */
  async peaks(track, stem, start) {
    return new Int8Array(await bytes(`api/tracks/${track.id}/peaks/${stem}?start=${start}`));
  }

  /** From byte `start` on: 96 bands of every 2048 samples. @param {Track} track @param {string} stem @param {number} start */
  async spectrogram(track, stem, start) {
    return new Uint8Array(await bytes(`api/tracks/${track.id}/spectrogram/${stem}?start=${start}`));
  }

  /** What a model is made of. @param {string} model @param {number} member of a bag, which one @returns {Promise<import("./inside.js").Outline>} */
  async inspect(model, member) {
    return (await call(`api/models/${encodeURIComponent(model)}/inside?member=${member}`)).json();
  }

  /** A layer's activations as a picture and numbers. @param {Track} track @param {{model: string, member: number, layer: string, at: number}} wanted */
  async trace(track, wanted) {
    return this.#ask(`api/tracks/${track.id}/trace`, wanted);
  }

  /** The stems of a region with and without parts. @param {Track} track
   * @param {{model: string, member: number, ablate: string[], start: number, stop: number}} wanted */
  async ablate(track, wanted) {
    return this.#ask(`api/tracks/${track.id}/ablate`, wanted);
  }

  /** @param {string} path @param {object} body */
  async #ask(path, body) {
    return (await call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) })).json();
  }

  /** A file that the studio has made. @param {string} path */
  bytes(path) {
    return bytes(path);
  }

  /** An address to download it from; the name is the answer's. @param {Track} track @param {Saving} saving */
  async export(track, saving) {
    return { url: /** @type {string} */ (this.address(track, saving)), name: "" };
  }

  /** The same at once, for what is dragged out of the page. @param {Track} track @param {Saving} saving @returns {string | null} */
  address(track, saving) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(saving)) if (value !== null) query.set(name, String(value));
    return new URL(`api/tracks/${track.id}/export?${query}`, location.href).href;
  }
}

/** @returns {Promise<StudioEngine>} */
export const open = async () => new StudioEngine();
