// Runs cases on the engine of a site, in Node: `node engine.mjs SITE CASES.json FOLDER`. A case's result is a line of JSON; stems go into a file.
import { readFileSync, writeFileSync } from "node:fs";

const [site, cases, folder] = process.argv.slice(2);
const { Engine, models } = await import(`${site}/engine.js`);
const open = {};

async function engineFor({ model, file, threads = 1, relaxed = false }) {
  const key = JSON.stringify([model, file, threads, relaxed]);
  if (!open[key]) {
    const bytes = file && readFileSync(file);
    const given = file ? bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) : model;
    open[key] = await Engine.open({ model: given, threads, relaxed });
  }
  return open[key];
}

const results = { models: (await models()).map(m => m.name) };
for (const { name, input, channels, options = {}, abort, ...how } of JSON.parse(readFileSync(cases, "utf8"))) {
  try {
    const engine = await engineFor(how);
    const raw = readFileSync(`${folder}/${input}`), all = new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.byteLength));
    const n = all.length / channels, track = Array.from({ length: channels }, (_, c) => all.slice(c * n, (c + 1) * n));
    const controller = new AbortController(), steps = [];
    const onprogress = p => {
      steps.push([p.stage, p.done, p.total]);
      if (abort !== undefined && p.stage === "separate" && p.done >= abort) controller.abort();
    };
    const stems = await engine.separate(track, { ...options, onprogress, signal: controller.signal });
    writeFileSync(`${folder}/web-${name}`, Buffer.concat([...stems.values()].flat().map(x => Buffer.from(x.buffer, x.byteOffset, x.byteLength))));
    results[name] = { stems: [...stems.keys()], length: stems.values().next().value[0].length, memory: engine.memory, steps, threads: engine.threads };
  } catch (error) {
    results[name] = { code: error.code, message: error.message, kind: error.name };
  }
}
for (const engine of Object.values(open)) engine.close();
console.log(JSON.stringify(results));
