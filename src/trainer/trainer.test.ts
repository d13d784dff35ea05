/** The Trainer alone, one rank: what it takes, what it refuses, what it prints. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { AutoModelForCausalLM } from '../hosts/onnx/causal-lm.ts';
import { earlyStopping } from './callbacks.ts';
import { Trainer, type TrainerOptions } from './trainer.ts';

const folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-trainer-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => vi.restoreAllMocks());

const samples = Array.from({ length: 6 }, (_, row) => ({
  input_ids: Array.from({ length: 8 }, (_, at) => (row * 5 + at * 3) % 31),
}));

function make(options: Partial<TrainerOptions>, args: Partial<TrainerOptions['args']> = {}) {
  return new Trainer({
    model: AutoModelForCausalLM.fromConfig({
      model_type: 'gpt2',
      vocab_size: 31,
      n_positions: 8,
      n_embd: 8,
      n_layer: 1,
      n_head: 1,
    }),
    trainDataset: samples,
    args: {
      outputDir: folder,
      perDeviceTrainBatchSize: 2,
      numTrainEpochs: 1,
      saveStrategy: 'no',
      reportTo: [],
      disableTqdm: true,
      ...args,
    },
    runtime: { threads: 1 },
    ...options,
  });
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
  });
});

it('a model that is too large is refused with the bytes that it needs and the key that lowers them', async () => {
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
    message: expect.stringMatching(/need \d{6}\.\d\d GiB on each of 1 rank/),
    fix: expect.stringContaining('zero_optimization.stage'),
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
