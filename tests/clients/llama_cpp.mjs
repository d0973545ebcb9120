// llama_cpp.mjs NODE_MODULES MODEL.gguf TEXT LENGTH [WINDOWS]: the tokens that llama.cpp makes of a text, and
// its perplexity of them in windows of LENGTH (the first WINDOWS of them), as one line of JSON. CPU, one thread.
import {readFileSync} from "node:fs";
import {join} from "node:path";
import {pathToFileURL} from "node:url";

const [modules, path, textPath, length, most] = process.argv.slice(2);
const entry = join(modules, "node-llama-cpp", "dist", "index.js");
const {getLlama} = await import(pathToFileURL(entry));
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, maxThreads: 1,
    logLevel: "error"});
const model = await llama.loadModel({modelPath: path});
const tokens = model.tokenize(readFileSync(textPath, "utf8"), false);
const T = Number(length), n = Math.min(Number(most ?? Infinity), Math.floor(tokens.length / T));
const context = await model.createContext({contextSize: T, sequences: 1});
const sequence = context.getSequence();

let loss = 0;
for (let w = 0; w < n; w++) {
    const window = tokens.slice(w * T, (w + 1) * T);
    await sequence.clearHistory();
    // No other options: a temperature alone would cut the distribution to 20 tokens.
    const steps = await sequence.controlledEvaluate(window.map((token, i) =>
        i + 1 < T ? [token, {generateNext: {probabilities: true}}] : token));
    for (let i = 0; i + 1 < T; i++)
        loss -= Math.log(steps[i].next.probabilities.get(window[i + 1]));
}
console.log(JSON.stringify({tokens, windows: n, perplexity: Math.exp(loss / (n * (T - 1)))}));
await llama.dispose();
