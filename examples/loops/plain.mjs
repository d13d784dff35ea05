/**
 * Logistic regression by hand: `npx deepspeed-js --num_procs 2 examples/loops/plain.mjs`. Every rank makes the
 * same data and takes its rows of it.
 */
import { initialize } from 'deepspeed-js';

const features = 6;
const rows = 240;
const x = Array.from({ length: rows }, (_, i) =>
  Float32Array.from({ length: features }, (_, j) => Math.sin(i * 1.7 + j * 2.3)),
);
const label = (row) => (row[0] + row[1] > row[2] ? 1 : 0);

const w = new Float32Array(features);
const b = new Float32Array(1);
const engine = await initialize({
  parameters: { w, b: { values: b, weightDecay: false } },
  optimizer: { type: 'AdamW', params: { lr: 0.1, weight_decay: 0 } },
});

/** Mean gradient and loss of this rank's rows. */
function pass(part) {
  const gradients = { w: new Float32Array(features), b: new Float32Array(1) };
  let loss = 0;
  for (const row of part) {
    const p = 1 / (1 + Math.exp(-row.reduce((sum, value, j) => sum + value * w[j], b[0])));
    const error = (p - label(row)) / part.length;
    loss -= Math.log(label(row) ? p : 1 - p) / part.length;
    for (let j = 0; j < features; j += 1) gradients.w[j] += error * row[j];
    gradients.b[0] += error;
  }
  return { gradients, loss };
}

const own = x.filter((_, i) => i % engine.worldSize === engine.rank);
for (let step = 0; step < 50; step += 1) {
  const { gradients, loss } = pass(own);
  engine.backward(gradients, loss);
  engine.step();
}
const { loss } = pass(x);
console.log(`loss ${loss.toFixed(4)}, gradient norm ${engine.getGlobalGradNorm().toFixed(4)}`);
await engine.close();
