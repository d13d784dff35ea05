/** The Trainer alone, one rank: what it takes, what it refuses, what it prints. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { fromNumbers, GraphBuilder, saveModel } from '../graph/index.ts';
import { AutoModelForCausalLM } from '../hosts/onnx/causal-lm.ts';
import { OnnxModel } from '../hosts/onnx/onnx-model.ts';
import { trainTokenizer } from '../models/index.ts';
import { earlyStopping, type TrainerCallback } from './callbacks.ts';
import { tokenBlocks } from './dataset.ts';
import { tinySamples, tinyTrainer } from './testing/tiny-trainer.ts';
import { Trainer, type TrainerOptions } from './trainer.ts';

const folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-trainer-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => vi.restoreAllMocks());

const samples = tinySamples(6);

function make(options: Partial<TrainerOptions>, args: Partial<TrainerOptions['args']> = {}) {
  const own = { outputDir: folder, numTrainEpochs: 1, ...args };
  return tinyTrainer(own, { trainDataset: samples, ...options });
}

/** What a run says on both streams. */
function listen(): { text(): string } {
  let said = '';
  vi.spyOn(console, 'log').mockImplementation((line) => {
    said += `${line}\n`;
  });
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    said += text;
    return true;
  });
  return { text: () => said };
}

describe('an array of samples', () => {
  it('is a dataset by index: its length counts the steps, its order is shuffled, it is evaluated', async () => {
    listen();
    const byHand = { length: samples.length, get: (index: number) => samples[index]! };
    const results = [];
    for (const dataset of [samples, byHand]) {
      const trainer = make({ trainDataset: dataset, evalDataset: dataset });
      const { globalStep, trainingLoss } = await trainer.train();
      const { eval_loss } = await trainer.evaluate();
      results.push({ globalStep, trainingLoss, eval_loss });
      await trainer.close();
    }
    expect(results[0]!.globalStep).toBe(3);
    expect(results[0]).toEqual(results[1]);
  });

  it('that is empty has no samples', async () => {
    await expect(make({ trainDataset: [] }).train()).rejects.toMatchObject({
      code: 'DATASET_EMPTY',
    });
    await expect(make({}).evaluate([])).rejects.toMatchObject({ code: 'DATASET_EMPTY' });
  });
});

it('disableTqdm drops the bar and nothing else', async () => {
  const said = listen();
  const trainer = make({ evalDataset: samples }, { evalStrategy: 'epoch', disableTqdm: true });
  await trainer.train();
  await trainer.close();
  expect(said.text()).not.toMatch(/tokens\/s · lr/);
  expect(said.text()).toMatch(/^step 3: eval loss \d\.\d{4}, perplexity/m);
  expect(said.text()).toMatch(/^time .*, 3 steps$/m);
  expect(said.text()).toMatch(/^speed .* tokens\/s/m);
});

describe('is refused before anything runs', () => {
  const invalid = (message: RegExp) => ({
    code: 'ARGUMENTS_INVALID',
    message: expect.stringMatching(message),
  });

  it.each<[what: string, action: () => Promise<unknown>, message: RegExp]>([
    [
      'training without a dataset',
      () => make({ trainDataset: undefined! }).train(),
      /trainDataset/,
    ],
    [
      'evalStrategy without evalDataset',
      () => make({}, { evalStrategy: 'epoch' }).train(),
      /evalStrategy "epoch" needs evalDataset/,
    ],
    [
      'a misspelt option of train()',
      () => make({}).train({ resumeFromCheckpont: true } as object),
      /resumeFromCheckpont is not an option of train\(\); did you mean resumeFromCheckpoint\?/,
    ],
    [
      'a stream without maxSteps',
      () => make({ trainDataset: { [Symbol.iterator]: () => samples.values() } }).train(),
      /maxSteps is needed with a dataset of unknown length/,
    ],
    ['an empty prompt', () => make({}).generate([]), /the prompt is empty/],
    [
      'a prompt longer than the model',
      () => make({}).generate(Array(9).fill(1)),
      /9 tokens, the model takes at most 8/,
    ],
    [
      'a number of new tokens that is none',
      () => make({}).generate([1], { maxNewTokens: 1.5 }),
      /maxNewTokens is 1\.5/,
    ],
    [
      'a misspelt option of generate()',
      () => make({}).generate([1], { maxnewtokens: 3 } as object),
      /maxnewtokens .* did you mean maxNewTokens\?/,
    ],
    [
      'early stopping that could never stop',
      () => make({ callbacks: [earlyStopping()] }).train(),
      /earlyStopping needs evalStrategy/,
    ],
    [
      'a callback that wants an evaluation without evalDataset',
      () =>
        make({
          callbacks: [
            {
              onStepEnd({ control }) {
                control.shouldEvaluate = true;
              },
            },
          ],
        }).train(),
      /control\.shouldEvaluate, and the Trainer has no evalDataset/,
    ],
  ])('%s', async (_what, action, message) => {
    listen();
    await expect(action()).rejects.toMatchObject(invalid(message));
  });

  it('options of the Trainer that do not exist, or that are missing', () => {
    expect(() => make({ trainDatset: samples } as object)).toThrow(
      /trainDatset is not an option of new Trainer\(\); did you mean trainDataset\?/,
    );
    expect(() => make({ model: undefined! })).toThrow(/new Trainer\(\) needs model/);
    expect(() => make({ args: undefined! })).toThrow(/args is missing; expected an object/);
    expect(() => earlyStopping({ patients: 3 } as object)).toThrow(/did you mean patience\?/);
    expect(() => AutoModelForCausalLM.fromConfig({}, { sead: 3 } as object)).toThrow(/seed\?/);
  });

  it.each<[what: string, action: () => unknown, message: RegExp]>([
    [
      'no options at all',
      () => new Trainer(undefined!),
      /options of new Trainer\(\) are undefined/,
    ],
    [
      'a model that was not awaited',
      () => make({ model: Promise.resolve() as never }),
      /model is a promise: await it/,
    ],
    ['the name of a model', () => make({ model: 'gpt2' as never }), /model is not a model/],
    ['callbacks that are no list', () => make({ callbacks: {} as never }), /callbacks is a list/],
    [
      'a model config that is none',
      () => AutoModelForCausalLM.fromConfig(undefined!),
      /model_type/,
    ],
    [
      'a name where a function is asked for',
      () => AutoModelForCausalLM.fromConfig({ model_type: 'gpt2' }).freeze('wte' as never),
      /takes a function/,
    ],
    ['text instead of tokens', () => tokenBlocks('text' as never, 2), /tokens\[0\] is 't'/],
    ['no numbers', () => tokenBlocks([1, Number.NaN], 2), /tokens\[1\] is NaN, which/],
    ['text as prompt', () => make({}).generate('text' as never), /no token id; encode text/],
    [
      'one string as corpus',
      () => trainTokenizer('text', folder, { vocabSize: 300 }),
      /one string/,
    ],
    [
      'a parameter that is not there',
      () => make({}).parameter('transformer.wte.wieght'),
      /not a parameter of the model; did you mean transformer\.wte\.weight\?/,
    ],
    ['prediction of nothing', () => make({}).predict(undefined!).next(), /predict\(\) needs/],
    [
      'text as dataset',
      () => make({ trainDataset: 'text' as never }, { maxSteps: 1 }).train(),
      /a dataset is an array, /,
    ],
  ])('%s', async (_what, action, message) => {
    await expect((async () => action())()).rejects.toMatchObject({
      name: 'DeepSpeedError',
      message: expect.stringMatching(message),
    });
  });

  it('callback events that do not exist, also of classes', () => {
    class Watch {
      on_step_end() {}
      once() {}
    }
    expect(() => make({ callbacks: [new Watch() as TrainerCallback] })).toThrow(
      /on_step_end: write onStepEnd$/,
    );
    expect(() => make({ callbacks: [{ onEvaluation() {} } as TrainerCallback] })).toThrow(
      /onEvaluation is not a callback event; did you mean onEvaluate\?/,
    );
  });

  it('a tokenizer folder without a tokenizer', () => {
    expect(() => make({ tokenizer: folder })).toThrow(
      expect.objectContaining({
        code: 'TOKENIZER_INVALID',
        message: `${join(folder, 'tokenizer.json')} does not exist`,
      }),
    );
  });
});

it('a model that is too large is refused with the bytes of each category and the key that lowers them', async () => {
  const model = AutoModelForCausalLM.fromConfig({
    model_type: 'gpt2',
    vocab_size: 2 ** 30,
    n_positions: 8,
    n_embd: 8192,
    n_layer: 1,
    n_head: 8,
  });
  await expect(make({ model }).train()).rejects.toMatchObject({
    code: 'OUT_OF_MEMORY',
    message: expect.stringMatching(
      /^parameters \d+\.\d\d GiB, .*optimizer \d+\.\d\d GiB.* \(ZeRO stage 0\) need \d{6}\.\d\d GiB on each of 1 rank/,
    ),
    fix: expect.stringContaining('zero_optimization.stage'),
  });
});

it('a model of samples is counted in samples', async () => {
  const b = new GraphBuilder('classifier');
  const x = b.input('x', 'float32', ['batch', 2]);
  const w = b.initializer('w', fromNumbers('float32', [2, 3], [1, 2, 3, 4, 5, 6]));
  b.output(b.op('MatMul', [x, w], {}, { output: 'logits' }), 'float32', ['batch', 3]);
  const path = join(folder, 'classifier.onnx');
  const file = { irVersion: 10, producerName: 'test', opsets: new Map([['', 21]]) };
  await saveModel({ ...file, graph: b.build(), metadata: new Map() }, path);
  const model = await OnnxModel.fromFile(path, { loss: { type: 'crossEntropy' } });
  const rows = Array.from({ length: 6 }, (_, row) => ({ x: [row, 1], labels: row % 3 }));
  const said = listen();
  const trainer = make({ model, trainDataset: rows, evalDataset: rows }, { disableTqdm: false });
  const { metrics } = await trainer.train();
  const evaluation = await trainer.evaluate();
  await trainer.close();
  expect(said.text()).toMatch(/^step 1\/3 .* samples\/s/m);
  expect(said.text()).toMatch(/^speed .* samples\/s, 6 samples$/m);
  expect(said.text()).not.toContain('tokens');
  expect(Object.keys(metrics)).toContain('train_samples_per_second');
  expect(Object.keys({ ...metrics, ...evaluation }).filter((key) => /token/.test(key))).toEqual([]);
});

describe('early stopping', () => {
  /** Losses that evaluation is made to see, one an epoch; the epoch at which training stopped. */
  async function stopsAt(losses: number[], options: Parameters<typeof earlyStopping>[0]) {
    listen();
    let epoch = 0;
    const fake: TrainerCallback = {
      onEvaluate({ metrics }) {
        metrics.eval_loss = losses[epoch++]!;
      },
    };
    const trainer = make(
      { evalDataset: samples, callbacks: [fake, earlyStopping(options)] },
      { evalStrategy: 'epoch', numTrainEpochs: losses.length },
    );
    const { globalStep } = await trainer.train();
    await trainer.close();
    return globalStep / 3;
  }

  it('waits for as many evaluations without improvement as its patience', async () => {
    expect(await stopsAt([3, 2, 2.5, 1, 1.5, 1.4, 0.5], { patience: 2 })).toBe(6);
    expect(await stopsAt([3, 2, 2.5, 1], {})).toBe(3);
    expect(await stopsAt([3, 2, 1], {})).toBe(3);
  });

  it('takes less than its threshold for no improvement', async () => {
    expect(await stopsAt([3, 2.9, 2.85, 1], { patience: 2, threshold: 0.2 })).toBe(3);
  });
});

it('decays weights, and neither biases nor norms', async () => {
  listen();
  const after = async (weightDecay: number) => {
    const trainer = make({}, { maxSteps: 1, learningRate: 0.1, weightDecay, maxGradNorm: 0 });
    await trainer.train();
    const read = async (name: string) => (await trainer.parameter(`transformer.${name}`)).slice();
    const [weight, bias, norm] = await Promise.all(
      ['h.0.mlp.c_fc.weight', 'h.0.mlp.c_fc.bias', 'h.0.ln_1.weight'].map(read),
    );
    await trainer.close();
    return { weight: weight!, bias: bias!, norm: norm! };
  };
  const [plain, decayed] = [await after(0), await after(0.5)];
  expect(decayed.bias).toEqual(plain.bias);
  expect(decayed.norm).toEqual(plain.norm);
  // AdamW: p ← p·(1 − lr·decay) − update, with the same update in both runs.
  const initial = make({});
  const start = (await initial.parameter('transformer.h.0.mlp.c_fc.weight')).slice();
  await initial.close();
  for (const [index, value] of decayed.weight.entries()) {
    const expected = plain.weight[index]! - 0.1 * 0.5 * start[index]!;
    // Three roundings of numbers below 1.
    expect(Math.abs(value - expected)).toBeLessThan(3 * 2 ** -24);
  }
});

it('predicts logits for the tokens of each sample, those that generation follows', async () => {
  listen();
  const trainer = make({ trainDataset: samples });
  await trainer.train();
  const rows = [{ input_ids: [3, 7, 1, 4] }, { input_ids: [5, 9] }];
  const predicted = [];
  for await (const { index, outputs } of trainer.predict(rows)) {
    const { data, dims } = outputs.logits!;
    expect({ index, dims }).toEqual({ index, dims: [rows[index]!.input_ids.length, 31] });
    const last = data.subarray(-31);
    predicted.push(last.indexOf(Math.max(...last)));
  }
  for (const [index, { input_ids }] of rows.entries()) {
    const continued = await trainer.generate(input_ids, { maxNewTokens: 1 });
    expect(continued).toEqual([...input_ids, predicted[index]]);
  }
  await trainer.close();
  await expect(trainer.evaluate(rows)).rejects.toMatchObject({ code: 'TRAINER_CLOSED' });
});

it('a folder for the model that cannot be written is an error with its name', async () => {
  listen();
  const file = join(folder, 'a-file');
  writeFileSync(file, '');
  await expect(make({}).saveModel(join(file, 'model'))).rejects.toMatchObject({
    code: 'OUTPUT_NOT_WRITABLE',
    message: expect.stringContaining(file),
  });
  await expect(trainTokenizer(['a text'], file, { vocabSize: 300 })).rejects.toMatchObject({
    code: 'OUTPUT_NOT_WRITABLE',
  });
});

describe('a sample that does not fit is named by its index', () => {
  it.each<[what: string, bad: object, message: string]>([
    ['a token outside the vocabulary', { input_ids: [1, 31] }, 'sample 4: token 31 is not in'],
    ['a label outside it', { input_ids: [1, 2], labels: [1, 99] }, 'sample 4: token 99 is not in'],
    ['too long', { input_ids: Array(9).fill(1) }, 'sample 4: 9 tokens, the model takes at most 8'],
    ['no tokens', {}, 'sample 4: no input_ids'],
    ['a short mask', { input_ids: [1, 2], attention_mask: [1] }, 'sample 4: attention_mask has 1'],
  ])('%s', async (_what, bad, message) => {
    listen();
    const trainDataset = samples.map((sample, index) => (index === 4 ? bad : sample));
    await expect(make({ trainDataset } as Partial<TrainerOptions>).train()).rejects.toMatchObject({
      code: 'DATASET_INVALID',
      message: expect.stringContaining(message),
      data: { index: 4 },
    });
  });

  it('a prompt is none', async () => {
    await expect(make({}).generate([99])).rejects.toMatchObject({
      code: 'DATASET_INVALID',
      message: expect.stringMatching(/^token 99 is not in/),
    });
  });
});
