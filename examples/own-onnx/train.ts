// Trains a model.onnx of your own, here a classifier of points on three spiral arms.
// One process:  npx tsx examples/own-onnx/train.ts
// Two ranks:    npx deepspeed-js --num_procs 2 examples/own-onnx/train.ts
import { fileURLToPath } from 'node:url';
import { OnnxModel, Trainer } from 'deepspeed-js/transformers';

const out = process.env.OUT ?? 'out/own-onnx';

/** Point i of the spirals; every third one is on the same arm. */
function sample(i: number) {
  const labels = i % 3;
  const radius = ((i * 7919) % 997) / 997;
  const angle = 4 * radius + (labels * 2 * Math.PI) / 3;
  return { point: [radius * Math.cos(angle), radius * Math.sin(angle)], labels };
}

const model = await OnnxModel.fromFile(fileURLToPath(new URL('model.onnx', import.meta.url)), {
  loss: { type: 'crossEntropy', logits: 'logits', labels: 'labels' },
});

const trainer = new Trainer({
  model,
  trainDataset: { length: 2000, get: sample },
  evalDataset: { length: 300, get: (i) => sample(5000 + i) },
  args: {
    outputDir: out,
    maxSteps: 300,
    perDeviceTrainBatchSize: 32,
    learningRate: 5e-3,
    weightDecay: 0.01,
    saveStrategy: 'no',
  },
});

await trainer.train();
const { eval_loss } = await trainer.evaluate();

let right = 0;
let seen = 0;
for await (const { index, outputs } of trainer.predict({ length: 300, get: sample })) {
  const scores = outputs.logits!.data;
  right += scores.indexOf(Math.max(...scores)) === sample(index).labels ? 1 : 0;
  seen += 1;
}
await trainer.saveModel(`${out}/model`);
if (await trainer.isMainProcess()) {
  console.log(
    `held-out loss ${eval_loss.toFixed(3)}, ${right} of the ${seen} points of this rank right`,
  );
  console.log(`wrote ${out}/model/model.onnx`);
}
