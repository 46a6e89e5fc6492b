// @ts-check
/** The stems of the selected track: listening, saving, looking inside, and the keyboard. */

import { $, complain, make, offer, press, pressed, say } from "./dom.js";
import { Lanes, stemOf } from "./lanes.js";
import { Mixer, Player } from "./player.js";
import * as words from "./words.js";

/** @typedef {import("./engine-studio.js").Engine} Engine
 * @typedef {import("./engine-studio.js").Track} Track
 * @typedef {import("./engine-studio.js").Saving} Saving
 * @typedef {{key: string, player: Player, lanes: Lanes}} Stage */

/** @type {Stage | null} */ let stage = null;
/** @type {Promise<unknown>} what the lanes fetch */ let loading = Promise.resolve();
/** @type {import("./inside.js").Inside | null} */ let inside = null;
let asked = 0; // the next frame

/** When nothing more is asked of a track that is not shown any more. */
export const settled = () => loading;

/** Show the stems of a track, as far as they are there. @param {Engine} engine @param {Track} track @param {string[]} stems none: nothing */
export function showStage(engine, track, stems) {
  const key = stems.length && track.rate ? [track.id, track.order, ...stems].join() : "";
  if (stage && stage.key !== key) closeStage();
  $("stage").hidden = !key;
  if (key) {
    const here = (stage ??= openStage(engine, track, stems, key));
    const before = here.player.track;
    here.player.track = track;
    if (before === track || before.state !== track.state || before.ready !== track.ready) grow();
  }
  showControls();
}

/** The lanes show what there is by now. */
function grow() {
  const here = stage;
  loading = loading.then(() => here?.lanes.grow()).catch((error) => stage === here && complain(error));
}

/** @param {Engine} engine @param {Track} track @param {string[]} stems @param {string} key @returns {Stage} */
function openStage(engine, track, stems, key) {
  const mixer = new Mixer(stems);
  const player = new Player(engine, track, mixer, showControls, complain);
  const lanes = new Lanes($("stage"), player);
  mixer.volume = Number($("volume").value);
  offer($("what"), [["*", "every stem, as a ZIP"], ["+", "the stems I hear, as a ZIP"], ["=", "what I hear, one file"], ...stems.map((stem) => [stem, `${stem} only`])]);
  offer($("rate"), [["original", `the song's, ${track.samplerate / 1000} kHz`], ["model", `the model's, ${track.rate / 1000} kHz`]]);
  return { key, player, lanes };
}

export function closeStage() {
  lookInside(false);
  if (!stage) return;
  stage.lanes.closed = true;
  stage.player.close();
  stage = null;
}

/** Show what goes on in the model, or not any more; only the studio's engine can. @param {boolean} open */
async function lookInside(open) {
  inside?.close();
  inside = null;
  $("inside").hidden = !open;
  press($("looking"), open);
  const here = stage;
  if (!open || !here) return;
  const { Inside } = await import("./inside.js");
  if (stage === here && pressed($("looking"))) inside = new Inside($("inside"), here.player);
  $("inside").scrollIntoView({ block: "nearest" });
}

// ---- listening

function showControls() {
  const player = stage?.player;
  $("controls").disabled = !player?.track.ready;
  $("save").disabled = $("looking").disabled = player?.track.state !== "done";
  $("play").textContent = player?.playing ? "❚❚" : "▶";
  $("play").setAttribute("aria-label", player?.playing ? "Pause" : "Play");
  press($("looping"), player?.looping ?? false);
  press($("ab"), player?.mixer.original ?? false);
  $("region").disabled = !player?.loop;
  follow();
}

/** The clock, the playhead and the meters, as long as they move. */
function follow() {
  cancelAnimationFrame(asked);
  if (!stage) return;
  const { position, length, playing, track } = stage.player;
  const now = words.clock(position / track.rate);
  $("clock").textContent = `${now} / ${words.clock(length / track.rate)}`;
  $("seek").max = length / track.rate;
  $("seek").value = position / track.rate;
  $("seek").setAttribute("aria-valuetext", now);
  stage.lanes.move();
  if (playing) asked = requestAnimationFrame(follow);
}

/** What the buttons do, and the keys. @type {Record<string, () => void>} */
const controls = {
  play: () => (stage?.player.playing ? stage.player.pause() : stage?.player.play()),
  looping: () => stage?.player.setLoop(!stage.player.looping, stage.player.loop),
  in: () => stage?.lanes.zoom(0.5),
  out: () => stage?.lanes.zoom(2),
  ab: () => {
    if (!stage) return;
    stage.player.mixer.original = !stage.player.mixer.original;
    stage.lanes.apply();
    showControls();
  },
  picture: () => {
    press($("picture"), !pressed($("picture")));
    $("stage").classList.toggle("spectrogram", pressed($("picture")));
    grow();
  },
  looking: () => lookInside(!pressed($("looking"))).catch(complain),
};

/** Move by seconds. @param {number} seconds */
const jump = (seconds) => stage?.player.seek(stage.player.position + seconds * stage.player.track.rate);

/** The loop begins, or ends, where the playhead is. @param {"start" | "stop"} edge */
function setEdge(edge) {
  if (!stage) return;
  const { position, length, loop } = stage.player;
  const region = { start: 0, stop: length, ...loop, [edge]: position };
  if (region.stop > region.start) stage.player.setLoop(true, region);
}

/** @param {KeyboardEvent} event */
function keyed(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.ctrlKey || event.metaKey || event.altKey || target.matches("select, input:not([type=range])")) return;
  if (event.key === "?") return $("keys").togglePopover();
  if (!stage) return;
  const stem = /^Digit[1-9]$/.test(event.code) && Object.keys(stage.player.mixer.lanes)[Number(event.code[5]) - 1];
  if (stem) return stage.lanes.toggle(stem, event.shiftKey ? "muted" : "solo");
  const step = event.shiftKey ? 1 : 5; // seconds
  /** @type {Record<string, () => void>} */
  const keys = { l: controls.looping, o: controls.ab, s: controls.picture, "[": () => setEdge("start"), "]": () => setEdge("stop") };
  if (!target.matches("button, a")) keys[" "] = controls.play;
  if (!target.matches("input")) Object.assign(keys, { ArrowLeft: () => jump(-step), ArrowRight: () => jump(step), ArrowUp: controls.in, ArrowDown: controls.out, Home: () => stage?.player.seek(0) });
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

// ---- saving

/** @param {string} [what] a stem, or one of the form's signs @returns {Saving} */
function saving(what = $("what").value) {
  const { player } = /** @type {Stage} */ (stage);
  const { mixer } = player;
  const [format, bits] = $("format").value.split(" ");
  const names = Object.keys(mixer.lanes);
  const stems = what === "*" ? names : what === "+" ? names.filter((name) => mixer.heard(name)) : [what];
  const part = $("region").checked && player.loop ? player.loop : { start: 0, stop: player.length };
  return { stems: what === "=" ? null : stems.join(), mix: what === "=" ? mixer.voices() : null, format, bits: Number(bits), rate: $("rate").value, ...part };
}

/** @param {string} [what] */
async function save(what) {
  if (!stage) return;
  const wanted = saving(what);
  if (!(wanted.stems ?? wanted.mix)) return say("No stem is heard: switch one on first.");
  say("The download begins when the file is written.");
  const file = await stage.player.engine.export(stage.player.track, wanted);
  make("a", { href: file.url, download: file.name }).click();
}

/** Take the page's controls into use. @param {Engine} engine */
export function listenForPlaying(engine) {
  for (const [id, act] of Object.entries(controls)) $(id).onclick = act;
  $("looking").hidden = !engine.native;
  $("seek").oninput = () => stage?.player.seek(Number($("seek").value) * stage.player.track.rate);
  $("volume").oninput = () => {
    if (!stage) return;
    stage.player.mixer.volume = Number($("volume").value);
    stage.player.apply();
  };
  if (engine.native) $("lane").content.querySelector(".grip").title += ", or drag it out of the window";
  $("lanes").addEventListener("click", (/** @type {any} */ event) => {
    if (!event.target.matches(".grip")) return;
    event.preventDefault();
    save(stemOf(event.target)).catch(complain);
  });
  $("lanes").ondragstart = (/** @type {any} */ event) => {
    if (!stage || !engine.native) return event.preventDefault();
    const { url, name } = /** @type {any} */ (engine.export(stage.player.track, saving(stemOf(event.target))));
    event.dataTransfer.setData("DownloadURL", `application/octet-stream:${name}:${url}`);
  };
  $("saving").onsubmit = (/** @type {SubmitEvent} */ event) => (event.preventDefault(), save().catch(complain));
  new ResizeObserver(redraw).observe($("stage"));
  addEventListener("keydown", keyed);
}

/** After a change of size or colours. */
export const redraw = () => stage?.lanes.draw();
