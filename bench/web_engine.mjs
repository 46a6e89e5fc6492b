// One engine in Node, driven by `web.py` over pipes: `node web_engine.mjs ours|onnx THREADS FOLDER TOOLS plain|relaxed`. Requests as `engine.py` has them.
import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [kind, count, folder, tools, module] = process.argv.slice(2), threads = Number(count);
const floats = file => { const raw = readFileSync(file); return new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.byteLength)); };
const mix = floats(`${folder}/mix.f32`), n = mix.length / 2;

async function ours() {
  const { Engine } = await import(pathToFileURL(`${folder}/site/engine.js`));
  const engine = await Engine.open({ model: "htdemucs", threads, relaxed: module !== "plain", profile: true });
  const options = { shifts: 0, overlap: 0, normalize: false };
  return { run: () => engine.separate([mix.slice(0, n), mix.slice(n)], options), memory: () => engine.memory, profile: () => engine.times };
}

async function onnx() {
  const ort = await import(pathToFileURL(`${tools}/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs`));
  ort.env.wasm.numThreads = threads;
  const externalData = [{ path: "htdemucs.onnx.data", data: readFileSync(`${folder}/htdemucs.onnx.data`) }];
  const session = await ort.InferenceSession.create(readFileSync(`${folder}/htdemucs.onnx`), { externalData, executionProviders: ["wasm"] });
  const spectrum = new ort.Tensor("float32", floats(`${folder}/spectrum.f32`), [1, 4, 2048, 336]), wave = new ort.Tensor("float32", mix, [1, 2, n]);
  return { run: () => session.run({ spectrum, mix: wave }), memory: () => 0, profile: () => [] };
}

const engine = await { ours, onnx }[kind]();
const say = answer => process.stdout.write(JSON.stringify(answer) + "\n");
let last;
const answers = {
  load: () => ({ versions: { node: process.version } }),
  async run() {
    const began = performance.now();
    last = await engine.run();
    return { seconds: (performance.now() - began) / 1000 };
  },
  save(path) {
    writeFileSync(path, Buffer.concat([...last.values()].flat().map(x => Buffer.from(x.buffer, x.byteOffset, x.byteLength))));
    return {};
  },
  memory: () => ({ engine: engine.memory(), process: process.memoryUsage.rss() }),
  profile: () => ({ calls: engine.profile() }),
};
for await (const line of createInterface({ input: process.stdin })) {
  const [what, ...args] = JSON.parse(line);
  say(await answers[what](...args));
}
process.exit(0);
