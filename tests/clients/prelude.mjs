// Loaded before a snippet of a card: its model comes from the Hub at HF_ENDPOINT and is kept in CACHE, and Node decodes
// WAV files as a browser does (16-bit PCM, mono, behind a header of 44 bytes, at the asked rate).
import { env } from "@huggingface/transformers";

env.remoteHost = process.env.HF_ENDPOINT;
env.allowLocalModels = false;
env.cacheDir = process.env.CACHE;

globalThis.AudioContext = class {
  async decodeAudioData(buffer) {
    const samples = Float32Array.from(new Int16Array(buffer.slice(44)), (sample) => sample / 32768);
    return { numberOfChannels: 1, getChannelData: () => samples };
  }
};
