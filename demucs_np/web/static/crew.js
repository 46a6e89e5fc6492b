// @ts-check
import { aborted, DemucsError } from "./errors.js";

const inNode = typeof process !== "undefined" && !!process.versions?.node;

/** The engine's threads, seen from the page: requests to the first, one at a time. */
export class Crew {
  constructor() {
    /** @type {any[]} */
    this.workers = [];
    /** @type {Map<number, { resolve: (value: any) => void, reject: (error: Error) => void, onpart?: (part: number) => void }>} */
    this.waiting = new Map();
    this.count = 0;
    /** @type {Promise<unknown>} */
    this.last = Promise.resolve();
    this.bytes = 0;
    /** @type {Error | null} */
    this.ended = null;
  }

  /** Start threads for a tape. @param {WebAssembly.Module} module @param {any} tape @param {number} threads @param {boolean} profile */
  static async start(module, tape, threads, profile) {
    const crew = new Crew();
    try {
      await crew._worker(data => crew._answered(data));
      const opened = await crew.request({ type: "open", module, tape, threads, profile });
      crew.bytes = opened.bytes;
      const helpers = Array.from({ length: threads - 1 }, async (_, i) => {
        let ready = () => {};
        const started = new Promise(resolve => (ready = () => resolve(undefined)));
        const worker = await crew._worker(() => ready());
        worker.postMessage({ type: "helper", module, memory: opened.memory, tape, layout: opened.layout, number: i + 1, threads });
        await started;
      });
      await Promise.all(helpers);
      for (const worker of crew.workers) worker.unref?.(); // an engine that waits does not keep Node alive
      return crew;
    } catch (error) {
      crew.close();
      throw error;
    }
  }

  /** A started worker. @param {(data: any) => void} listener of what follows its first message */
  async _worker(listener) {
    const url = new URL("./worker.js", import.meta.url);
    const kind = inNode ? (await import("node:worker_threads")).Worker : globalThis.Worker;
    const worker = /** @type {any} */ (new /** @type {any} */ (kind)(url, { type: "module" }));
    this.workers.push(worker);
    return new Promise((resolve, reject) => {
      let ready = false;
      const heard = (/** @type {any} */ data) => {
        if (ready) return listener(data);
        ready = true;
        resolve(worker);
      };
      const failed = (/** @type {any} */ error) => {
        this.ended = new DemucsError("worker", `a thread of the engine ended (${error?.message ?? "no reason given"})`, "open the engine again");
        reject(this.ended);
        for (const { reject } of this.waiting.values()) reject(this.ended);
        this.waiting.clear();
      };
      if (worker.on) worker.on("message", heard).on("error", failed);
      else (worker.onmessage = (/** @type {MessageEvent} */ e) => heard(e.data)), (worker.onerror = failed);
    });
  }

  /** @param {any} data */
  _answered({ id, result, failure, part }) {
    const call = this.waiting.get(id);
    if (part !== undefined) return call?.onpart?.(part);
    this.waiting.delete(id);
    if (!failure) call?.resolve(result);
    else if (failure.code === "aborted") call?.reject(aborted());
    else call?.reject(new DemucsError(failure.code, failure.what, failure.remedy));
  }

  /**
   * Ask the first thread, after what it was asked before. `onpart` hears how far it is, from 0 to 1.
   * @param {any} message @param {{ signal?: AbortSignal, transfer?: any[], onpart?: (part: number) => void }} [options] @returns {Promise<any>}
   */
  request(message, options = {}) {
    const answer = this.last.then(() => this._ask(message, options));
    this.last = answer.catch(() => {});
    return answer;
  }

  /** @param {any} message @param {{ signal?: AbortSignal, transfer?: any[], onpart?: (part: number) => void }} options */
  async _ask(message, { signal, transfer = [], onpart }) {
    if (this.ended) throw this.ended;
    if (signal?.aborted) throw aborted();
    const id = ++this.count, worker = this.workers[0];
    const cancel = () => worker.postMessage({ cancel: id });
    signal?.addEventListener("abort", cancel);
    worker.ref?.();
    try {
      return await new Promise((resolve, reject) => {
        this.waiting.set(id, { resolve, reject, onpart });
        worker.postMessage({ ...message, id }, transfer);
      });
    } finally {
      if (!this.waiting.size) worker.unref?.();
      signal?.removeEventListener("abort", cancel);
    }
  }

  close() {
    this.ended ??= new DemucsError("closed", "the engine is closed", "open another");
    for (const { reject } of this.waiting.values()) reject(this.ended);
    this.waiting.clear();
    for (const worker of this.workers) worker.terminate();
    this.workers = [];
  }
}
