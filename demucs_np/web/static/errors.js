// @ts-check
/** @typedef {"simd" | "memory" | "weights" | "network" | "audio" | "usage" | "tape" | "aborted" | "closed" | "worker"} Code */

/** What can go wrong, each with a code, what happened, and what to do. */
export class DemucsError extends Error {
  /** @param {Code} code @param {string} what @param {string} remedy */
  constructor(code, what, remedy) {
    super(`${what}; ${remedy}`);
    this.name = "DemucsError";
    this.code = code;
    this.what = what;
    this.remedy = remedy;
  }
}

/** Throw if the caller has cancelled. @param {AbortSignal | undefined} signal */
export function heed(signal) {
  if (signal?.aborted) throw aborted();
}

export const aborted = () => new DemucsError("aborted", "cancelled", "start again when you like");

/** @param {number} bytes @param {Error} error */
export const noMemory = (bytes, error) =>
  new DemucsError("memory", `the browser does not give the ${Math.ceil(bytes / 1e6)} MB that the model needs (${error.message})`, "close other pages, or take fewer threads or a smaller model");
