// @ts-check
/** How the next song is separated: model, stems and quality, and fetching a model that is not here yet. */

import { $, make, offer, say } from "./dom.js";
import * as words from "./words.js";

/** @typedef {import("./engine-studio.js").Engine} Engine
 * @typedef {import("./engine-studio.js").Model} Model
 * @typedef {import("./engine-studio.js").Wish} Wish */

/** @type {Model[]} */ let models = [];
/** @type {Map<string, number | string>} the part of a model that is here, or why it could not be fetched */ const fetching = new Map();

/** @param {string | undefined} name */
export const modelOf = (name) => models.find((model) => model.name === name);
export const chosenModel = () => /** @type {Model} */ (modelOf($("model").value));
const chosenStems = () => [...document.querySelectorAll("#stem-list input:checked")].map((box) => /** @type {HTMLInputElement} */ (box).value);

/** With another model than the chosen one: all its stems. @param {string} [name] @returns {Wish} */
export function wish(name = $("model").value) {
  const stems = chosenStems();
  const some = name === $("model").value && stems.length < chosenModel().stems.length;
  return { model: name, stems: some ? stems : null, ...words.QUALITIES[/** @type {words.Quality} */ ($("quality").value)] };
}

/** @param {Engine} engine @param {number} seconds of the selected track */
export async function loadModels(engine, seconds) {
  models = await engine.models();
  const wanted = $("model").value || localStorage.getItem("model") || "htdemucs";
  offer($("model"), models.map(({ name, fetch }) => [name, fetch === 0 ? name : `${name} · ${fetch ? `${fetch} MB` : "to fetch"}`]));
  $("model").value = modelOf(wanted) ? wanted : models[0].name;
  showModel();
  showExpected(seconds);
}

function showModel() {
  const model = chosenModel();
  if ($("stems").dataset.of !== model.name) {
    const boxes = model.stems.map((stem) => make("label", {}, make("input", { type: "checkbox", value: stem, checked: "" }), stem));
    $("stem-list").replaceChildren(...boxes);
    $("stems").dataset.of = model.name;
  }
  showStems();
  const state = fetching.get(model.name);
  const busy = typeof state === "number";
  const error = typeof state === "string" ? [make("em", {}, ` ${state}.`)] : [];
  $("about-words").replaceChildren(make("b", {}, model.name), ` ${model.about}. Licence: ${model.licence}.`, ...error);
  $("about-bar").hidden = !busy;
  $("about-bar").value = busy ? state : 0;
  $("fetch").hidden = model.fetch === 0;
  $("fetch").disabled = busy;
  $("fetch").textContent = busy ? `Fetching: ${Math.round(state * 100)} %` : error.length ? "Try again" : `Fetch ${words.size(model)}`;
}

function showStems() {
  const chosen = chosenStems();
  const { stems } = chosenModel();
  $("stems").querySelector("b").textContent = chosen.length === stems.length ? "all" : chosen.length === 1 ? chosen[0] : `${chosen.length} of ${stems.length}`;
}

/** The qualities, with how long a track would take. @param {number} seconds */
export function showExpected(seconds) {
  const before = $("quality").value || localStorage.getItem("quality") || "normal";
  const names = /** @type {words.Quality[]} */ (Object.keys(words.QUALITIES));
  offer($("quality"), names.map((name) => [name, seconds ? `${name} · ${words.about(words.expected(chosenModel(), name, seconds))}` : name]));
  $("quality").value = before;
}

/** What an engine tells of a model that it fetches; at 1 the models are to be loaded anew. @param {string} name @param {number} part @param {string | null} [error] */
export function modelFetched(name, part, error = null) {
  fetching.set(name, error ?? part);
  if (part < 1) return showModel();
  fetching.delete(name);
  say(`${name} is here`);
}

/** @param {Engine} engine @param {() => void} changed */
export function listenForWishes(engine, changed) {
  $("model").onchange = () => {
    localStorage.setItem("model", $("model").value);
    showModel();
    changed();
  };
  $("quality").onchange = () => localStorage.setItem("quality", $("quality").value);
  $("stem-list").onchange = (/** @type {any} */ { target }) => {
    target.checked ||= !chosenStems().length; // one at least
    showStems();
  };
  $("fetch").onclick = () => {
    const name = $("model").value;
    modelFetched(name, 0);
    engine.fetchModel(name).catch((error) => modelFetched(name, 0, error.message));
  };
}
