/** What is saved where there is no server, as files: WAV here, FLAC by libFLAC, MP3 by LAME. A worker, of the kind that loads scripts, which those are. */

self.FLAC_SCRIPT_LOCATION = "vendor/";
importScripts("vendor/libflac.min.wasm.js", "vendor/wasm-media-encoders.js");
const libflac = new Promise((ready) => (Flac.isReady() ? ready() : Flac.on("ready", ready)));
const lame = fetch("vendor/mp3.wasm").then(async (answer) => WasmMediaEncoder.createEncoder("audio/mpeg", await answer.arrayBuffer()));
lame.catch(() => {}); // told when it is wanted
const PIECE = 1 << 16; // frames that an encoder is given

/** Lowered where they would clip, as the command does it. @param {Float32Array[]} channels */
function lowered(channels) {
  let peak = 0;
  for (const channel of channels) for (const sample of channel) peak = Math.max(peak, Math.abs(sample));
  const divisor = Math.fround(Math.fround(1.01) * peak);
  return divisor > 1 ? channels.map((channel) => channel.map((sample) => sample / divisor)) : channels;
}

/** Interleaved. @template {Float32Array | Int16Array | Int32Array} T @param {Float32Array[]} channels @param {T} into @param {(sample: number) => number} of @returns {T} */
function interleaved(channels, into, of) {
  for (const [c, channel] of channels.entries()) for (let i = 0; i < channel.length; i++) into[i * channels.length + c] = of(channel[i]);
  return into;
}

/** Cut toward zero, as the command does it. @param {number} bits */
const integer = (bits) => (/** @type {number} */ sample) => Math.trunc(Math.fround(sample * (2 ** (bits - 1) - 1)));

const formats = {
  /** @param {Float32Array[]} channels @param {number} rate @param {number} bits 16, 24, or 32: float */
  wav(channels, rate, bits) {
    const [count, size] = [channels.length, channels.length * channels[0].length];
    const head = new DataView(new ArrayBuffer(44));
    const text = (at, word) => [...word].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
    for (const [at, word] of [[0, "RIFF"], [8, "WAVEfmt "], [36, "data"]]) text(at, word);
    for (const [at, value] of [[4, 36 + (size * bits) / 8], [16, 16], [24, rate], [28, (rate * count * bits) / 8], [40, (size * bits) / 8]]) head.setUint32(at, value, true);
    for (const [at, value] of [[20, bits === 32 ? 3 : 1], [22, count], [32, (count * bits) / 8], [34, bits]]) head.setUint16(at, value, true);
    if (bits === 32) return [head, interleaved(channels, new Float32Array(size), (sample) => Math.max(-1, Math.min(1, sample)))];
    if (bits === 16) return [head, interleaved(lowered(channels), new Int16Array(size), integer(16))];
    return [head, new Uint8Array(interleaved(lowered(channels), new Int32Array(size), integer(24)).buffer).filter((_, i) => i % 4 < 3)];
  },

  async flac(channels, rate, bits) {
    await libflac;
    const [count, length] = [channels.length, channels[0].length];
    const samples = interleaved(lowered(channels), new Int32Array(count * length), integer(bits));
    const encoder = Flac.create_libflac_encoder(rate, count, bits, 5, length, false, 0);
    const parts = [];
    Flac.init_encoder_stream(encoder, (part) => parts.push(part.slice()));
    for (let at = 0; at < length; at += PIECE) {
      const piece = samples.subarray(count * at, count * (at + PIECE));
      Flac.FLAC__stream_encoder_process_interleaved(encoder, piece, piece.length / count);
    }
    const whole = Flac.FLAC__stream_encoder_finish(encoder);
    Flac.FLAC__stream_encoder_delete(encoder);
    if (!whole) throw new Error(`FLAC cannot be written at ${rate} Hz; choose the model's rate, or WAV`);
    return parts;
  },

  async mp3(channels, rate) {
    const encoder = await lame;
    const parts = [];
    encoder.configure({ sampleRate: rate, channels: channels.length, bitrate: 320 });
    for (let at = 0, all = lowered(channels); at < all[0].length; at += PIECE) {
      parts.push(encoder.encode(all.map((channel) => channel.subarray(at, at + PIECE))).slice());
    }
    return [...parts, encoder.finalize().slice()];
  },
};

onmessage = async ({ data: { channels, rate, format, bits }, ports: [port] }) => {
  try {
    port.postMessage(new Blob(await formats[format](channels, rate, bits)));
  } catch (error) {
    port.postMessage({ error: error.message });
  }
};
