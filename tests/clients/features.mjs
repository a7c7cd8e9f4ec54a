// node --import prelude.mjs features.mjs MODEL CLIP.wav OUT.f32: the features that transformers.js hears, as raw float32.
import { writeFileSync } from "node:fs";

import { AutoProcessor, load_audio } from "@huggingface/transformers";

const [model, clip, out] = process.argv.slice(2);
const processor = await AutoProcessor.from_pretrained(model);
const { input_features } = await processor(await load_audio(clip, 16000));
writeFileSync(out, new Uint8Array(input_features.data.buffer));
