// @ts-check
/** Files of weights as the models are published: safetensors, https://github.com/huggingface/safetensors#format. */
import { DemucsError } from "./errors.js";

const SIZES = /** @type {Record<string, number>} */ ({ F32: 4, F16: 2, BF16: 2, F64: 8 });
const damaged = (/** @type {string} */ what) => new DemucsError("weights", `the file of weights ${what}`, "fetch it again, or convert it with `demucs-np convert`");

/** Some bytes of a file that is in memory or on disk. @param {ArrayBuffer | Blob} file @param {number} begin @param {number} end @returns {Promise<ArrayBuffer>} */
const bytes = async (file, begin, end) => (file instanceof ArrayBuffer ? file.slice(begin, end) : file.slice(begin, end).arrayBuffer());

/** The header: entries by name, and where the data begin. @param {ArrayBuffer | Blob} file */
export async function headerOf(file) {
  const size = file instanceof ArrayBuffer ? file.byteLength : file.size;
  if (size < 8) throw damaged(`has ${size} bytes`);
  const length = Number(new DataView(await bytes(file, 0, 8)).getBigUint64(0, true));
  if (!(length >= 2 && length <= 8_000_000 && 8 + length <= size)) throw damaged("is no safetensors file, or cut short");
  let entries;
  try {
    entries = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(await bytes(file, 8, 8 + length)));
  } catch {
    throw damaged("is no safetensors file: its header is no JSON");
  }
  const { __metadata__: metadata = {}, ...tensors } = entries;
  return { metadata: /** @type {Record<string, string>} */ (metadata), tensors: /** @type {Record<string, any>} */ (tensors), begin: 8 + length, size };
}

/**
 * Readers of the tensors that a model has, in the order of `wanted` (name, elements): each gives its bytes in parts of at most `most`
 * bytes, as float16 (`half`) or float32.
 * @param {ArrayBuffer | Blob} file @param {[string, number][]} wanted
 */
export async function tensorsOf(file, wanted) {
  const { tensors, begin, size } = await headerOf(file);
  return wanted.map(([name, count]) => {
    const entry = tensors[name];
    if (!entry) throw damaged(`has no tensor ${name}`);
    const item = SIZES[entry.dtype], [from, to] = entry.data_offsets ?? [];
    if (!item) throw damaged(`holds ${entry.dtype} in ${name}, not floating-point numbers`);
    if (!(entry.shape?.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1) === count && to - from === count * item)) throw damaged(`has a tensor ${name} of another shape than the model's`);
    if (!(from >= 0 && begin + to <= size)) throw damaged("is cut short");
    return async function* (/** @type {number} */ most) {
      for (let at = from; at < to; at += most) {
        const data = await bytes(file, begin + at, begin + Math.min(to, at + most));
        yield entry.dtype === "F16" ? { data, half: true } : { data: asFloat32(entry.dtype, data), half: false };
      }
    };
  });
}

/** @param {string} dtype @param {ArrayBuffer} data @returns {ArrayBuffer} */
function asFloat32(dtype, data) {
  if (dtype === "F64") return /** @type {ArrayBuffer} */ (Float32Array.from(new Float64Array(data)).buffer);
  if (dtype === "BF16") return /** @type {ArrayBuffer} */ (Uint32Array.from(new Uint16Array(data), x => x << 16).buffer);
  return data;
}
