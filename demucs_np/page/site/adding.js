// @ts-check
/** How songs come to the page: dropped, picked, pasted, or recorded. */

import { $, press, say } from "./dom.js";

/** @typedef {(files: File[]) => void} Add */

const AUDIO = /\.(wav|flac|mp3|ogg|opus|m4a|aac|aiff?|wma|mp4|webm|mkv|mov|caf|ac3|amr)$/i;
/** @type {MediaRecorder | null} */ let recorder = null;

/** @param {File} file */
const isSong = (file) => /^(audio|video)\//.test(file.type) || AUDIO.test(file.name);

/** All songs of an entry that was dropped, if it is a folder. @param {any} entry @returns {Promise<File[]>} */
async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  /** @type {File[]} */ const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // not always all
    if (!some.length) return found.filter(isSong);
    for (const one of some) found.push(...(await filesOf(one)));
  }
}

/** @param {DataTransfer} data */
async function dropped(data) {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
  return entries.length ? (await Promise.all(entries.map(filesOf))).flat() : [...data.files];
}

/** Begin a take, or end it. @param {Add} add */
async function record(add) {
  if (recorder) return recorder.stop();
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  const show = (/** @type {MediaRecorder | null} */ running) => {
    recorder = running;
    press($("record"), running !== null);
    $("record").textContent = running ? "Stop recording" : "Record a take";
  };
  const made = new MediaRecorder(stream);
  made.ondataavailable = ({ data }) => {
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
    add([new File([data], `take ${time}.${made.mimeType.includes("mp4") ? "m4a" : "webm"}`, { type: made.mimeType })]);
  };
  made.onstop = () => {
    for (const part of stream.getTracks()) part.stop();
    show(null);
  };
  made.start();
  show(made);
}

/** @param {Add} add */
export function listenForFiles(add) {
  const shown = (/** @type {boolean} */ on) => document.body.classList.toggle("dropping", on);
  const files = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => files(event) && (event.preventDefault(), shown(true)));
  addEventListener("dragleave", (event) => event.relatedTarget || shown(false));
  addEventListener("drop", (event) => {
    shown(false);
    if (!files(event)) return;
    event.preventDefault();
    dropped(/** @type {DataTransfer} */ (event.dataTransfer)).then(add);
  });
  addEventListener("paste", (event) => add([...(event.clipboardData?.files ?? [])]));
  $("pick").onclick = $("choose").onclick = () => $("files").click();
  $("folder").onclick = () => $("folders").click();
  $("files").onchange = () => (add([...$("files").files]), ($("files").value = ""));
  $("folders").onchange = () => (add([...$("folders").files].filter(isSong)), ($("folders").value = ""));
  $("record").onclick = () => {
    record(add).catch((error) => say(`The microphone cannot be used (${error.message}); allow it in the browser's address bar.`));
  };
}
