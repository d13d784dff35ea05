/** A segment that refuses its input, early or late in the pass, ends the run at that step. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it, vi } from 'vitest';
import { fromNumbers, GraphBuilder, saveModel } from '../../graph/index.ts';
import { randomNumbers } from '../../graph/testing.ts';
import { Trainer } from '../../trainer/trainer.ts';
import { OnnxModel } from './onnx-model.ts';

const folder = mkdtempSync(join(tmpdir(), 'pass-failure-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
vi.spyOn(console, 'log').mockReturnValue();

const classes = 5;
const width = 4;

/** ids [batch, 3] → embedding → two layers → logits: segments of their own, with others after each. */
async function model(): Promise<OnnxModel> {
  const b = new GraphBuilder('classifier');
  let seed = 1;
  const weight = (name: string, rows: number) =>
    b.initializer(name, fromNumbers('float32', [rows, width], randomNumbers(rows * width, seed++)));
  const ids = b.input('ids', 'int64', ['batch', 3]);
  let h = b.segment('embedding', () =>
    b.op('Gather', [weight('embedding', classes), ids], { axis: 0 }),
  );
  for (const layer of ['layer.0', 'layer.1']) {
    h = b.segment(layer, () =>
      b.op('Add', [h, b.op('Tanh', [b.op('MatMul', [h, weight(layer, width)])])]),
    );
  }
  const logits = b.segment('head', () => {
    const turned = b.op('Transpose', [weight('head', classes)], { perm: [1, 0] });
    return b.op('MatMul', [h, turned], {}, { output: 'logits' });
  });
  b.output(logits, 'float32', ['batch', 3, classes]);
  const path = join(folder, `${Math.random()}.onnx`);
  const file = { irVersion: 10, producerName: 'test', opsets: new Map([['', 21]]) };
  await saveModel({ ...file, graph: b.build(), metadata: new Map<string, string>() }, path);
  return OnnxModel.fromFile(path, {
    loss: { type: 'crossEntropy', logits: 'logits', labels: 'labels' },
  });
}

const sample = (index: number) => ({
  ids: [0, 1, 2].map((i) => (index + i) % classes),
  labels: [0, 1, 2].map((i) => (index * 2 + i) % classes),
});

async function trainer(wrong: 'ids' | 'labels') {
  const bad = sample(5);
  bad[wrong][1] = 25;
  return new Trainer({
    model: await model(),
    trainDataset: Array.from({ length: 8 }, (_, index) => (index === 5 ? bad : sample(index))),
    evalDataset: [bad],
    args: {
      outputDir: join(folder, 'out'),
      perDeviceTrainBatchSize: 1,
      gradientAccumulationSteps: 2,
      maxSteps: 4,
      saveStrategy: 'no',
      reportTo: [],
      disableTqdm: true,
    },
  });
}

it.each(['ids', 'labels'] as const)('%s out of range end training at their step', async (wrong) => {
  const error = await (await trainer(wrong)).train().then(
    () => null,
    (error: unknown) => error,
  );
  expect(error).toMatchObject({ code: 'PASS_FAILED' });
  expect(String(error)).toMatch(/step \d, micro batch [12] of 2: .*\b25\b/s);
});

it.each(['ids', 'labels'] as const)('%s out of range end an evaluation', async (wrong) => {
  await expect((await trainer(wrong)).evaluate()).rejects.toMatchObject({ code: 'PASS_FAILED' });
});
