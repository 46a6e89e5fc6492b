// @ts-check
/** The page: tracks and what is done with them. What works is an engine: the studio's, or one in the browser. */

import { listenForFiles } from "./adding.js";
import { $, complain, say } from "./dom.js";
import { closeStage, listenForPlaying, redraw, settled, showStage } from "./stage.js";
import { chosenModel, listenForWishes, loadModels, modelFetched, modelOf, showExpected, wish } from "./wish.js";
import * as words from "./words.js";

/** @typedef {import("./engine-studio.js").Track & {file?: File}} Track one with a file is not the engine's yet */

const kind = document.querySelector("meta[name=engine]")?.getAttribute("content"); // studio or wasm
const engine = /** @type {import("./engine-studio.js").Engine} */ ((await import(`./engine-${kind}.js`)).engine);
/** @type {Map<string, Track>} */ const tracks = new Map();
/** @type {Map<string, HTMLLIElement>} */ const rows = new Map();
/** @type {Set<string>} tracks that are being deleted */ const leaving = new Set();
/** @type {string} */ let selected = "";
let count = 0; // of files

const current = () => tracks.get(selected);
const reload = () => loadModels(engine, current()?.seconds ?? 0).then(show);

// ---- tracks come and go

/** @param {File[]} files */
async function add(files) {
  const added = files.map((file) => {
    const id = `file-${count++}`;
    changed(/** @type {any} */ ({ id, file, name: file.name, state: "adding", seconds: 0, sources: [], error: null }));
    return id;
  });
  if (added.length) select(added[0]);
  for (const id of added) await open(id);
}

/** Hand a file to the engine, and separate it at once if that needs nothing else. @param {string} id */
async function open(id) {
  const waiting = tracks.get(id);
  if (!waiting?.file) return;
  changed({ ...waiting, state: "adding", error: null });
  try {
    const track = await engine.open(waiting.file);
    if (!tracks.has(track.id)) changed(track);
    rows.get(id)?.after(/** @type {HTMLLIElement} */ (rows.get(track.id)));
    if (selected === id) select(track.id);
    removed(id);
    if (chosenModel().fetch === 0) await separate(track);
  } catch (error) {
    changed({ ...waiting, state: "refused", error: /** @type {Error} */ (error).message });
  }
}

async function tryDemo() {
  const track = await engine.demo();
  changed(track);
  select(track.id);
  await separate(track, "demo");
}

/** @param {Track} track @param {string} [model] */
async function separate(track, model) {
  await engine.separate(track, wish(model)).catch((error) => changed({ ...track, state: "failed", error: error.message }));
}

/** @param {Track} track */
function changed(track) {
  const before = tracks.get(track.id);
  tracks.set(track.id, track);
  showRow(track);
  if (before && before.state !== track.state && ["done", "failed", "cancelled"].includes(track.state)) {
    say(`${track.name}: ${words.state(track, modelOf(track.wish?.model))}`);
    if (track.state === "done") reload(); // it has a pace now
  }
  if (track.id === selected) show();
}

/** @param {string} id */
function removed(id) {
  const row = rows.get(id);
  const next = /** @type {HTMLElement | null} */ (row?.nextElementSibling ?? row?.previousElementSibling ?? null);
  tracks.delete(id);
  rows.delete(id);
  row?.remove();
  if (selected !== id) return;
  select(next?.dataset.id ?? "");
  /** @type {HTMLElement} */ (next?.querySelector("button") ?? $("choose")).focus();
}

/** Delete it, once nothing more is asked of it. @param {Track} track */
async function remove(track) {
  leaving.add(track.id);
  show();
  await settled();
  await engine.remove(track).catch(complain);
  leaving.delete(track.id);
}

/** What the buttons of a track do; which of them are shown follows its state, in style.css. @type {Record<string, (track: Track) => unknown>} */
const acts = {
  again: (track) => (track.file ? open(track.id) : separate(track)),
  cancel: (track) => engine.cancel(track).catch(complain),
  remove: (track) => (track.file ? removed(track.id) : remove(track)),
};

/** @param {Track} track */
function showRow(track) {
  let row = rows.get(track.id);
  if (!row) {
    row = /** @type {HTMLLIElement} */ ($("row").content.firstElementChild.cloneNode(true));
    for (const button of row.querySelectorAll("[data-act]")) button.ariaLabel = `${button.textContent}: ${track.name}`;
    row.dataset.id = track.id;
    rows.set(track.id, row);
    $("queue").prepend(row);
  }
  const open = /** @type {any} */ (row.firstElementChild);
  open.onclick = () => (select(track.id), $("tracks").hidePopover());
  open.firstChild.textContent = track.name;
  open.lastChild.textContent = words.state(track, modelOf(track.wish?.model));
  open.setAttribute("aria-current", String(track.id === selected));
  row.dataset.state = track.state;
}

/** @param {string} id */
function select(id) {
  const before = current();
  selected = id;
  for (const track of [before, current()]) if (track) showRow(track);
  $("saving").hidePopover();
  show();
  showExpected(current()?.seconds ?? 0);
}

/** What it is called to separate a track, or to add it, again. @param {string} state */
function again(state) {
  const model = chosenModel();
  const text = { done: "Separate again", new: "Separate" }[state] ?? "Try again";
  return model.fetch === 0 || state === "refused" ? text : `Fetch ${words.size(model)} and ${text.toLowerCase()}`;
}

/** The selected track. */
function show() {
  const track = current();
  document.body.dataset.view = track ? "track" : "empty";
  if (!track) return closeStage();
  const model = modelOf(track.wish?.model);
  const stems = track.sources.length ? track.sources : (track.wish?.stems ?? model?.stems ?? []);
  const shown = !leaving.has(track.id) && ["queued", "running", "done"].includes(track.state);
  const took = track.state === "done" ? words.state(track, model).split(" · ")[1] : (track.wish?.model ?? "");
  $("title").textContent = track.name;
  $("facts").textContent = track.seconds ? `${words.clock(track.seconds)} · ${track.samplerate / 1000} kHz · ${took}` : "";
  $("actions").firstElementChild.textContent = again(track.state);
  $("actions").dataset.state = $("progress").dataset.state = track.state;
  $("bar").hidden = track.state !== "running";
  $("bar").value = track.part ?? 0;
  $("words").textContent = track.state === "done" ? "" : words.state(track, model);
  showStage(engine, track, shown ? stems : []);
}

// ---- the theme

const dark = matchMedia("(prefers-color-scheme: dark)");

/** The theme last chosen; the system's until then. */
function setTheme() {
  document.documentElement.dataset.theme = localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light");
  redraw();
}

dark.onchange = setTheme;
$("theme").onclick = () => {
  localStorage.setItem("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  setTheme();
};
$("demo").onclick = () => tryDemo().catch(complain);
addEventListener("click", ({ target, detail }) => {
  const button = /** @type {HTMLElement} */ (target).closest("button");
  const track = tracks.get(button?.closest("li")?.dataset.id ?? selected);
  if (track) acts[button?.dataset.act ?? ""]?.(track);
  if (detail) button?.blur(); // after a click of the mouse, space plays
});
setTheme();
listenForFiles(add);
listenForWishes(engine, show);
listenForPlaying(engine);
await reload();
await engine.listen({
  track: changed,
  removed,
  model: (name, part, error) => (modelFetched(name, part, error), part === 1 && reload()),
  trouble: (text) => {
    $("away").textContent = text;
    $("away").hidden = !text;
  },
});
select(/** @type {HTMLElement | null} */ ($("queue").firstElementChild)?.dataset.id ?? "");
document.body.dataset.ready = "yes";
