// @ts-check
/** What the page says: times, sizes, and where a track stands. */

/** @typedef {import("./engine-studio.js").Track} Track
 * @typedef {import("./engine-studio.js").Model} Model */

/** How a quality is made: passes with other delays, and how far segments overlap; null: as the model's makers meant it. */
export const QUALITIES = {
  fast: { shifts: 0, overlap: 0.1 },
  normal: { shifts: null, overlap: null },
  best: { shifts: 4, overlap: 0.25 },
};
/** @typedef {keyof typeof QUALITIES} Quality */

/** @param {number} seconds */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  const rest = String(whole % 60).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}

/** @param {number} seconds */
export const about = (seconds) => (seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`);

/** Seconds that a separation takes. @param {Model} model @param {Quality} quality @param {number} seconds */
export function expected(model, quality, seconds) {
  const { shifts, overlap } = QUALITIES[quality];
  return (model.pace * seconds * Math.max(1, shifts ?? 1)) / (1 - (overlap ?? 0.25));
}

/** @param {Model} model */
export const size = (model) => (model.fetch ? `${model.fetch} MB` : "its files");

/** Where a track stands, in a few words. @param {Track} track @param {Model | undefined} model */
export function state(track, model) {
  const length = clock(track.seconds);
  switch (track.state) {
    case "adding": return "adding";
    case "new": return `${length} · not separated yet`;
    case "queued": return `${length} · waiting`;
    case "running": return progress(track, model);
    case "done": return `${length} · separated in ${clock(Math.max(1, track.took ?? 0))}`;
    case "cancelled": return `${length} · cancelled`;
    default: return track.error ?? "failed";
  }
}

/** @param {Track} track @param {Model | undefined} model */
export function progress(track, model) {
  const name = track.wish?.model ?? "the model";
  switch (track.stage) {
    case "fetching": return `fetching ${name}${model?.fetch ? `, ${model.fetch} MB` : ""}: ${Math.round(track.part * 100)} %`;
    case "loading": return `opening ${name}`;
    case "reading": return "reading the file";
    case "compiling": return "compiling kernels, once";
    case "separating": return track.seconds_left === null ? `separating, ${Math.round(track.part * 100)} %` : `separating, ${clock(track.seconds_left + 0.5)} left`;
    default: return "starting";
  }
}
