/**
 * A small network over jax-js, which differentiates but does not train:
 * `npx deepspeed-js --num_procs 2 examples/loops/jax.mjs`.
 */
import { initialize } from 'deepspeed-js';

globalThis.navigator ??= {}; // jax-js asks for WebGPU there; Node 20 has none
const { defaultDevice, init, numpy: np, valueAndGrad } = await import('@jax-js/jax');
await init();
defaultDevice('wasm');

const shapes = { w1: [4, 16], b1: [16], w2: [16, 1], b2: [1] };
const parameters = Object.fromEntries(
  Object.entries(shapes).map(([name, shape], index) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const values = Float32Array.from({ length: size }, (_, i) => Math.sin(7 * index + i) / 3);
    return [name, { values, shape }];
  }),
);
const engine = await initialize({
  parameters,
  optimizer: { type: 'AdamW', params: { lr: 0.02, weight_decay: 0 } },
});

const rows = 128;
const numbers = Array.from({ length: rows }, (_, i) =>
  [0, 1, 2, 3].map((j) => Math.sin(i * 1.3 + j)),
);
const own = numbers.filter((_, i) => i % engine.worldSize === engine.rank);
const x = np.array(own);
const y = np.array(own.map((row) => [row[0] * row[1]]));

/** Arrays of jax-js are used up by what reads them; `ref` keeps one. */
const loss = ({ w1, b1, w2, b2 }) => {
  const hidden = np.tanh(np.dot(x.ref, w1).add(b1));
  return np.mean(np.square(np.dot(hidden, w2).add(b2).sub(y.ref)));
};
let first;
let last;
for (let step = 0; step < 60; step += 1) {
  const tree = Object.fromEntries(
    Object.entries(parameters).map(([name, { values, shape }]) => [
      name,
      np.array(values.slice()).reshape(shape),
    ]),
  );
  const [cost, gradients] = valueAndGrad(loss)(tree);
  last = cost.dataSync()[0];
  first ??= last;
  const arrays = Object.entries(gradients).map(([name, one]) => [
    name,
    Float32Array.from(one.dataSync()),
  ]);
  engine.backward(Object.fromEntries(arrays), last);
  engine.step();
}
console.log(`loss from ${first.toFixed(4)} to ${last.toFixed(4)}`);
await engine.close();
