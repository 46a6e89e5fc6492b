// @ts-check
/** The page: tracks and what is done with them. What is heard is `player.js`, what is drawn `lanes.js`, what works an engine. */

import { joined, Lanes, make } from "./lanes.js";
import { BANDS, COLUMN, PEAK } from "./pictures.js";
import { Mixer, Player } from "./player.js";
import * as words from "./words.js";

/** @typedef {import("./engine-studio.js").Track & {file?: File}} Track
 * @typedef {import("./engine-studio.js").Model} Model
 * @typedef {{key: string, player: Player, lanes: Lanes, mixer: Mixer, busy: boolean, again: boolean}} Stage */

const AUDIO = /\.(wav|flac|mp3|ogg|opus|m4a|aac|aiff?|wma|mp4|webm|mkv|mov|caf|ac3|amr)$/i;
const FORMATS = { "wav 16": "WAV, 16 bit", "wav 24": "WAV, 24 bit", "wav 32": "WAV, 32-bit float", "flac 16": "FLAC, 16 bit", "flac 24": "FLAC, 24 bit", "mp3 16": "MP3, 320 kbit/s" };
const kind = document.querySelector("meta[name=engine]")?.getAttribute("content"); // studio or wasm
const engine = /** @type {import("./engine-studio.js").Engine} */ (await (await import(`./engine-${kind}.js`)).open());
/** @type {Map<string, Track>} */ const tracks = new Map();
/** @type {Map<string, HTMLLIElement>} */ const rows = new Map();
/** @type {Map<string, number>} parts of models that are being fetched */ const fetching = new Map();
/** @type {Model[]} */ let models = [];
/** @type {string | null} */ let selected = null;
/** @type {Stage | null} */ let stage = null;
/** @type {MediaRecorder | null} */ let recorder = null;
/** @type {Set<string>} tracks that are being deleted */ const leaving = new Set();
/** @type {Promise<void>} what the lanes are fetching */ let loading = Promise.resolve();

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);
const current = () => (selected ? (tracks.get(selected) ?? null) : null);
/** @param {string | undefined} name */
const modelOf = (name) => models.find((model) => model.name === name);
const quality = () => /** @type {words.Quality} */ ($("quality").value);
const chosenStems = () => [...$("stems").querySelectorAll("input:checked")].map((box) => /** @type {HTMLInputElement} */ (box).value);

/** The tracks, on a phone. @param {boolean} on */
function showSheet(on) {
  document.body.classList.toggle("sheet", on);
  $("sheet").setAttribute("aria-expanded", String(on));
}

/** @param {string} text */
function say(text) {
  $("say").textContent = text;
}

// ---- models, and how the next song is separated

async function loadModels() {
  models = await engine.models();
  const wanted = $("model").value || localStorage.getItem("model") || "htdemucs";
  $("model").replaceChildren(...models.map(({ name, fetch }) => make("option", { value: name }, fetch === 0 ? name : `${name} · ${fetch ? `${fetch} MB` : "to fetch"}`)));
  $("model").value = modelOf(wanted) ? wanted : models[0].name;
  showModel();
}

function showModel() {
  const model = /** @type {Model} */ (modelOf($("model").value));
  if ($("stems").dataset.of !== model.name) {
    const boxes = model.stems.map((stem) => make("label", {}, make("input", { type: "checkbox", value: stem, checked: "" }), stem));
    $("stems").querySelector("div").replaceChildren(...boxes);
    $("stems").dataset.of = model.name;
  }
  showStems();
  showExpected();
  const part = fetching.get(model.name);
  $("about-words").replaceChildren(make("b", {}, model.name), ` ${model.about}. Licence: ${model.licence}.`);
  $("about-bar").hidden = part === undefined;
  $("about-bar").value = part ?? 0;
  $("fetch").hidden = model.fetch === 0;
  $("fetch").disabled = part !== undefined;
  $("fetch").textContent = part === undefined ? `Fetch ${words.size(model)}` : `Fetching: ${Math.round(part * 100)} %`;
}

function showStems() {
  const all = [...$("stems").querySelectorAll("input")];
  const chosen = chosenStems();
  $("stems").querySelector("b").textContent = chosen.length === all.length ? "all" : chosen.length === 1 ? chosen[0] : `${chosen.length} of ${all.length}`;
}

/** The qualities, with how long the selected track would take. */
function showExpected() {
  const model = modelOf($("model").value);
  if (!model) return;
  const track = current();
  const before = $("quality").value || localStorage.getItem("quality") || "normal";
  const options = /** @type {words.Quality[]} */ (Object.keys(words.QUALITIES)).map((name) => {
    return make("option", { value: name }, track?.seconds ? `${name} · ${words.about(words.expected(model, name, track.seconds))}` : name);
  });
  $("quality").replaceChildren(...options);
  $("quality").value = before;
}

async function fetchModel() {
  const { value } = $("model");
  fetching.set(value, 0);
  showModel();
  await engine.fetchModel(value).catch((error) => modelChanged(value, 0, false, error.message));
}

/** @param {string} name @param {number} part @param {boolean} done @param {string | null} error */
function modelChanged(name, part, done, error) {
  if (done || error) fetching.delete(name);
  else fetching.set(name, part);
  if (error) $("about-words").append(make("em", {}, ` ${error}.`));
  if (done) loadModels().then(() => (say(`${name} is here`), show()));
  else if (!error) showModel();
  else [$("fetch").disabled, $("fetch").textContent, $("about-bar").hidden] = [false, "Try again", true];
}

/** @param {Track} track @param {string} [model] */
async function separate(track, model = $("model").value) {
  const stems = chosenStems();
  const wish = { model, stems: model !== $("model").value || stems.length === modelOf(model)?.stems.length ? null : stems, ...words.QUALITIES[quality()] };
  try {
    await engine.separate(track, wish);
  } catch (error) {
    changed({ ...track, state: "failed", error: /** @type {Error} */ (error).message });
  }
}

// ---- tracks come and go

let count = 0;

/** @param {File[]} files */
async function add(files) {
  if (!files.length) return;
  const added = files.map((file) => {
    const id = `file-${count++}`;
    changed(/** @type {any} */ ({ id, file, name: file.name, state: "adding", seconds: 0, sources: [], error: null }));
    return id;
  });
  select(added[0]);
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
    if (modelOf($("model").value)?.fetch === 0) await separate(track);
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

/** @param {Track} track */
function changed(track) {
  const before = tracks.get(track.id);
  tracks.set(track.id, track);
  showRow(track);
  if (before && before.state !== track.state && ["done", "failed", "cancelled"].includes(track.state)) {
    say(`${track.name}: ${words.state(track, modelOf(track.wish?.model))}`);
    if (track.state === "done") loadModels(); // it has a pace now
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
  if (selected === id) {
    select(next?.dataset.id ?? null);
    /** @type {HTMLElement} */ (next?.querySelector("button") ?? $("choose")).focus();
  }
}

/** Delete it, once nothing more is asked of it. @param {Track} track */
async function remove(track) {
  leaving.add(track.id);
  show();
  await loading;
  await engine.remove(track).catch((error) => say(error.message));
  leaving.delete(track.id);
}

/** What can be done with a track, the first thing first. @param {Track} track @returns {[string, () => void][]} */
function actions(track) {
  const model = modelOf($("model").value);
  const fetch = model?.fetch === 0 ? "" : `Fetch ${model ? words.size(model) : ""} and `;
  const verb = (/** @type {string} */ text) => (fetch ? fetch + text.toLowerCase() : text);
  /** @type {[string, () => void]} */ const away = ["Delete", () => remove(track)];
  switch (track.state) {
    case "adding": return [];
    case "refused": return [["Try again", () => open(track.id)], ["Remove", () => removed(track.id)]];
    case "queued": case "running": return [["Cancel", () => engine.cancel(track).catch((error) => say(error.message))], away];
    case "done": return [[verb("Separate again"), () => separate(track)], away];
    case "new": return [[verb("Separate"), () => separate(track)], away];
    default: return [[verb("Try again"), () => separate(track)], away];
  }
}

/** @param {[string, () => void]} action @param {Track} track */
function button([text, act], track) {
  const made = make("button");
  const called = (/** @type {string} */ words) => {
    made.textContent = words;
    made.setAttribute("aria-label", `${words}: ${track.name}`);
  };
  called(text);
  made.onclick = () => {
    if (text !== "Delete" || made.textContent !== text) return act();
    called("Really delete"); // the second click does it
    setTimeout(called, 4000, text);
  };
  return made;
}

/** Replace buttons only where they change: what has the focus keeps it. @param {HTMLElement} place @param {Track} track @param {[string, () => void][]} wanted */
function showButtons(place, track, wanted) {
  const key = [track.id, track.state, ...wanted.map(([text]) => text)].join();
  if (place.dataset.key === key) return;
  const focused = place.contains(document.activeElement);
  place.dataset.key = key;
  place.replaceChildren(...wanted.map((action) => button(action, track)));
  if (focused) place.querySelector("button")?.focus();
}

/** @param {Track} track */
function showRow(track) {
  let row = rows.get(track.id);
  if (!row) {
    row = make("li", { "data-id": track.id }, make("button", { class: "open" }, make("b"), make("small")), make("span", { class: "row" }));
    /** @type {HTMLElement} */ (row.firstChild).onclick = () => (select(track.id), showSheet(false));
    rows.set(track.id, row);
    $("queue").prepend(row);
  }
  const model = modelOf(track.wish?.model);
  /** @type {HTMLElement} */ (row.querySelector("b")).textContent = track.name;
  /** @type {HTMLElement} */ (row.querySelector("small")).textContent = words.state(track, model);
  row.dataset.state = track.state;
  row.firstElementChild?.setAttribute("aria-current", String(track.id === selected));
  showButtons(/** @type {HTMLElement} */ (row.lastChild), track, ["done", "new"].includes(track.state) ? [] : actions(track).slice(0, track.state === "refused" ? 2 : 1));
}

// ---- the selected track

/** @param {string | null} id */
function select(id) {
  const before = current();
  selected = id;
  if (before) showRow(before);
  $("saving").hidden = true;
  $("save").setAttribute("aria-expanded", "false");
  const track = current();
  document.body.dataset.view = track ? "track" : "empty";
  if (track) showRow(track);
  show();
  showExpected();
}

function show() {
  const track = current();
  const model = modelOf(track?.wish?.model);
  const names = track ? (track.sources.length ? track.sources : (track.wish?.stems ?? model?.stems ?? [])) : [];
  const shown = track && !leaving.has(track.id) && ["queued", "running", "done"].includes(track.state) ? names : [];
  const key = track && shown.length ? [track.id, track.order, ...shown].join() : "";
  if (stage && stage.key !== key) {
    lookInside(false);
    stage.lanes.close();
    stage.player.close();
    stage = null;
    $("stage").replaceChildren();
  }
  $("stage").hidden = !key || !track?.rate;
  if (!track) return;
  $("title").textContent = track.name;
  $("facts").textContent = track.seconds ? `${words.clock(track.seconds)} · ${track.samplerate / 1000} kHz · ${track.state === "done" ? `separated in ${words.clock(Math.max(1, track.took ?? 0))}` : (track.wish?.model ?? "")}` : "";
  showButtons($("actions"), track, actions(track));
  $("progress").dataset.state = track.state;
  $("bar").hidden = track.state !== "running";
  $("bar").value = track.part ?? 0;
  $("words").textContent = track.state === "done" ? "" : words.state(track, model);
  if (key && track.rate && !stage) openStage(track, shown, key);
  if (stage) {
    const grown = stage.player.track.state !== track.state;
    stage.player.update(track);
    if (grown) stage.lanes.fit();
    stage.again = true;
    if (!stage.busy) loading = loadPictures(stage, track);
  }
  showControls();
}

/** @param {Track} track @param {string[]} stems @param {string} key */
function openStage(track, stems, key) {
  const mixer = new Mixer(stems);
  const player = new Player(engine, track, mixer, showControls);
  const lanes = new Lanes($("stage"), player, {
    save: (stem) => save({ ...saving(), stems: stem, mix: null }),
    address: (stem) => {
      const wanted = { ...saving(), stems: stem, mix: null };
      const url = engine.address(player.track, wanted);
      return url ? { url, name: `${player.track.name.replace(/\.\w+$/, "")} - ${stem}.${wanted.format}` } : null;
    },
  });
  lanes.spectrogram = $("picture").getAttribute("aria-pressed") === "true";
  stage = { key, player, lanes, mixer, busy: false, again: false };
  mixer.volume = Number($("volume").value);
  const options = [["*", "every stem, as a ZIP"], ["+", "the stems I hear, as a ZIP"], ["=", "what I hear, one file"], ...stems.map((stem) => [stem, `${stem} only`])];
  $("what").replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  const rates = [["original", `the song's, ${track.samplerate / 1000} kHz`], ["model", `the model's, ${track.rate / 1000} kHz`]];
  $("rate").replaceChildren(...rates.map(([value, text]) => make("option", { value }, text)));
  lanes.draw();
}

/** @type {{close: () => void} | null} */ let inside = null;

/** Show what goes on in the model, or not any more; only the studio's engine can. @param {boolean} open */
async function lookInside(open) {
  inside?.close();
  inside = null;
  $("inside").hidden = !open;
  $("looking").setAttribute("aria-pressed", String(open));
  const here = stage;
  if (!open || !here) return;
  const { mountInside } = await import("./inside.js");
  if (stage === here && !$("inside").hidden) inside = mountInside($("inside"), { engine: /** @type {any} */ (engine), track: here.player.track, player: here.player });
  $("inside").scrollIntoView({ block: "nearest" });
}

/** Fetch what has been added to the lanes' pictures. @param {Stage} here @param {Track} track */
async function loadPictures(here, track) {
  here.busy = true;
  try {
    while (here.again && stage === here) {
      here.again = false;
      for (const [name, pictures] of here.lanes.pictures) {
        if (stage !== here) return;
        const { peaks, spectrogram } = pictures; // of a track that may be deleted now nothing is asked that is here already
        if (peaks.length < 2 * Math.ceil(here.player.length / PEAK)) pictures.peaks = joined(peaks, await engine.peaks(track, name, peaks.length));
        const columns = Math.ceil(here.player.length / COLUMN);
        if (spectrogram.length < BANDS * columns) pictures.spectrogram = joined(spectrogram, await engine.spectrogram(track, name, spectrogram.length));
      }
      here.lanes.draw();
    }
  } catch (error) {
    if (stage === here) say(/** @type {Error} */ (error).message);
  } finally {
    here.busy = false;
  }
}

// ---- listening

function showControls() {
  const player = stage?.player;
  for (const control of document.querySelectorAll("footer button, footer input")) control.toggleAttribute("disabled", !player?.ready);
  $("save").disabled = $("looking").disabled = player?.track.state !== "done";
  $("play").textContent = player?.playing ? "❚❚" : "▶";
  $("play").setAttribute("aria-label", player?.playing ? "Pause" : "Play");
  $("looping").setAttribute("aria-pressed", String(player?.looping ?? false));
  $("ab").setAttribute("aria-pressed", String(stage?.mixer.original ?? false));
  $("region").disabled = !player?.loop;
  if (!player?.loop) $("region").checked = false;
  follow();
}

let asked = 0;

/** The clock, the playhead and the meters, as long as they move. */
function follow() {
  cancelAnimationFrame(asked);
  const player = stage?.player;
  if (!player) {
    $("clock").textContent = "0:00 / 0:00";
    return;
  }
  const { rate } = player.track;
  $("clock").textContent = `${words.clock(player.position / rate)} / ${words.clock(player.length / rate)}`;
  $("seek").max = player.length / rate;
  $("seek").value = player.position / rate;
  $("seek").setAttribute("aria-valuetext", words.clock(player.position / rate));
  stage?.lanes.move();
  if (player.playing) asked = requestAnimationFrame(follow);
}

/** @type {Record<string, () => void>} */
const controls = {
  play: () => (stage?.player.playing ? stage.player.pause() : stage?.player.play().catch((error) => say(error.message))),
  looping: () => stage?.player.setLoop(!stage.player.looping, stage.player.loop),
  in: () => stage?.lanes.zoom(0.5),
  out: () => stage?.lanes.zoom(2),
  ab: () => {
    if (!stage) return;
    stage.mixer.original = !stage.mixer.original;
    stage.player.apply();
    stage.lanes.refresh();
    showControls();
  },
  picture: () => {
    const on = $("picture").getAttribute("aria-pressed") !== "true";
    $("picture").setAttribute("aria-pressed", String(on));
    if (!stage) return;
    stage.lanes.spectrogram = on;
    stage.lanes.draw();
  },
  save: () => {
    $("saving").hidden = !$("saving").hidden;
    $("save").setAttribute("aria-expanded", String(!$("saving").hidden));
    if (!$("saving").hidden) $("what").focus();
  },
  looking: () => lookInside($("inside").hidden).catch((error) => say(error.message)),
  help: () => $("keys").showModal(),
};

/** Move by seconds. @param {number} seconds */
const jump = (seconds) => stage?.player.seek(stage.player.position + seconds * stage.player.track.rate);

/** The loop begins, or ends, where the playhead is. @param {"start" | "stop"} edge */
function setEdge(edge) {
  if (!stage) return;
  const { position, length, loop } = stage.player;
  const region = { start: loop?.start ?? 0, stop: loop?.stop ?? length, [edge]: position };
  if (region.stop > region.start) stage.player.setLoop(true, region);
}

/** @param {KeyboardEvent} event */
function pressed(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.key === "Escape" && !$("saving").hidden) return controls.save(), $("save").focus();
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open || target.matches("select, input:not([type=range])")) return;
  if (event.key === "?") return controls.help();
  const digit = /^Digit([1-9])$/.exec(event.code);
  const stem = digit && stage ? [...stage.mixer.lanes.keys()][Number(digit[1]) - 1] : undefined;
  if (stem) return stage?.lanes.toggle(stem, event.shiftKey ? "muted" : "solo");
  const range = target.matches("input[type=range]");
  const step = event.shiftKey ? 1 : 5; // seconds
  /** @type {Record<string, () => void>} */
  const keys = { l: controls.looping, o: controls.ab, s: controls.picture, "[": () => setEdge("start"), "]": () => setEdge("stop") };
  if (!target.matches("button, a, summary")) keys[" "] = controls.play;
  if (!range) Object.assign(keys, { ArrowLeft: () => jump(-step), ArrowRight: () => jump(step), ArrowUp: controls.in, ArrowDown: controls.out, Home: () => stage?.player.seek(0) });
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || !stage) return;
  event.preventDefault();
  act();
}

// ---- saving

/** @returns {import("./engine-studio.js").Saving} */
function saving() {
  const here = /** @type {Stage} */ (stage);
  const { player, mixer } = here;
  const [format, bits] = $("format").value.split(" ");
  const loop = $("region").checked && player.loop ? player.loop : { start: 0, stop: player.length };
  const what = $("what").value;
  const heard = [...mixer.lanes.keys()].filter((name) => mixer.audible(name)).join(",");
  const stems = what === "*" ? [...mixer.lanes.keys()].join(",") : what === "+" ? heard : what === "=" ? null : what;
  return { stems, mix: what === "=" ? mixer.voices() : null, format, bits: Number(bits), rate: $("rate").value, ...loop };
}

/** @param {import("./engine-studio.js").Saving} wanted */
async function save(wanted) {
  if (!stage) return;
  if (!(wanted.stems ?? wanted.mix)) return say("Nothing is heard: unmute a stem first.");
  say("The download begins when the file is written.");
  try {
    const { url, name } = await engine.export(stage.player.track, wanted);
    make("a", { href: url, download: name }).click();
  } catch (error) {
    say(/** @type {Error} */ (error).message);
  }
}

// ---- dropping, picking, pasting, recording

/** All files of what was dropped, folders' too. @param {DataTransfer} data @returns {Promise<File[]>} */
async function filesOf(data) {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry !== null && entry !== undefined);
  if (!entries.length) return [...data.files];
  /** @param {any} entry @returns {Promise<File[]>} */
  const walk = async (entry) => {
    if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
    const reader = entry.createReader();
    /** @type {File[]} */ const found = [];
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return found.filter(isSong);
      for (const one of some) found.push(...(await walk(one)));
    }
  };
  return (await Promise.all(entries.map(walk))).flat();
}

/** @param {File} file */
const isSong = (file) => /^(audio|video)\//.test(file.type) || AUDIO.test(file.name);

async function record() {
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
    const made = (recorder = new MediaRecorder(stream));
    /** @type {Blob[]} */ const parts = [];
    made.ondataavailable = (event) => parts.push(event.data);
    made.onstop = () => {
      recorder = null;
      for (const part of stream.getTracks()) part.stop();
      $("record").setAttribute("aria-pressed", "false");
      $("record").textContent = "Record a take";
      const time = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
      add([new File(parts, `take ${time}.${made.mimeType.includes("mp4") ? "m4a" : "webm"}`, { type: made.mimeType })]);
    };
    made.start();
    $("record").setAttribute("aria-pressed", "true");
    $("record").textContent = "Stop recording";
  } catch (error) {
    say(`The microphone cannot be used (${/** @type {Error} */ (error).message}); allow it in the browser's address bar.`);
  }
}

function listenToPage() {
  const on = /** @type {(name: string, act: (event: any) => void) => void} */ ((name, act) => addEventListener(name, act));
  const files = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  on("dragover", (event) => files(event) && (event.preventDefault(), document.body.classList.add("dropping")));
  on("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
  on("drop", async (event) => {
    document.body.classList.remove("dropping");
    if (!files(event)) return;
    event.preventDefault();
    add(await filesOf(event.dataTransfer));
  });
  on("paste", (event) => add([...event.clipboardData.files]));
  on("keydown", pressed);
  on("click", (event) => {
    if (!event.target.closest("#stems")) $("stems").open = false;
    if (event.detail) event.target.closest("button:not(dialog *)")?.blur(); // after a click of the mouse, space plays
  });
  for (const [id, act] of Object.entries(controls)) $(id).onclick = act;
  $("pick").onclick = $("choose").onclick = () => $("files").click();
  $("folder").onclick = () => $("folders").click();
  $("files").onchange = () => (add([...$("files").files]), ($("files").value = ""));
  $("folders").onchange = () => (add([...$("folders").files].filter(isSong)), ($("folders").value = ""));
  $("record").onclick = record;
  $("looking").hidden = !("trace" in engine);
  $("demo").onclick = () => tryDemo().catch((error) => say(error.message));
  $("fetch").onclick = fetchModel;
  $("model").onchange = () => (localStorage.setItem("model", $("model").value), showModel(), show());
  $("quality").onchange = () => localStorage.setItem("quality", $("quality").value);
  $("stems").onchange = (/** @type {any} */ event) => (chosenStems().length || (event.target.checked = true), showStems());
  $("seek").oninput = () => stage?.player.seek(Number($("seek").value) * stage.player.track.rate);
  $("volume").oninput = () => stage && ((stage.mixer.volume = Number($("volume").value)), stage.player.apply());
  $("saving").onsubmit = (/** @type {SubmitEvent} */ event) => (event.preventDefault(), save(saving()));
  $("sheet").onclick = () => showSheet(!document.body.classList.contains("sheet"));
  $("theme").onclick = () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  dark.onchange = () => setTheme();
  $("format").replaceChildren(...engine.formats.map((format) => make("option", { value: format }, FORMATS[/** @type {keyof typeof FORMATS} */ (format)])));
}

const dark = matchMedia("(prefers-color-scheme: dark)");

/** The theme last chosen; the system's until then. @param {string} [chosen] */
function setTheme(chosen) {
  if (chosen) localStorage.setItem("theme", chosen);
  document.documentElement.dataset.theme = localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light");
  stage?.lanes.draw();
}

setTheme();
listenToPage();
await loadModels();
await engine.listen({ track: changed, removed, model: modelChanged, connected: (yes) => ($("away").hidden = yes) });
select(/** @type {HTMLElement | null} */ ($("queue").firstElementChild)?.dataset.id ?? null);
document.body.dataset.ready = "yes";
