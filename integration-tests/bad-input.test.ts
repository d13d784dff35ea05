import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { loadTokenizer } from '../src/transformers.ts';
import type { Scenario } from './fixtures/training/scenario.ts';
import { lastWords, runLauncher } from './launcher.run.ts';
import { failRanks, raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const folder = temporaryFolder();
const file = (name: string, text: string) => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};
const config = (deepspeed: Scenario['args']['deepspeed']) => ({ args: { deepspeed } });
const samples = (count: number) => ({ samples: raggedSamples(count) });

/** What is wrong, and what the one error on every rank says of it. */
interface BadInput {
  what: string;
  model?: Scenario['model'];
  samples?: Scenario['samples'];
  args?: Partial<Scenario['args']>;
  code: string;
  says: RegExp[];
}

const badInputs: BadInput[] = [
  {
    what: 'a misspelt config key',
    ...config({ zero_optimisation: { stage: 1 } }),
    code: 'CONFIG_INVALID',
    says: [/zero_optimisation/, /zero_optimization/],
  },
  {
    what: 'a misspelt key of a section',
    ...config({ zero_optimization: { stag: 1 } }),
    code: 'CONFIG_INVALID',
    says: [/zero_optimization\.stag\b/, /\bstage\b/],
  },
  {
    what: 'an impossible batch triangle',
    ...config({
      train_batch_size: 7,
      train_micro_batch_size_per_gpu: 2,
      gradient_accumulation_steps: 3,
    }),
    code: 'CONFIG_INVALID',
    says: [/\b7\b.*\b2\b.*\b3\b.*\b2\b/s],
  },
  {
    what: 'a config file that does not exist',
    ...config(join(folder, 'nowhere.json')),
    code: 'CONFIG_NOT_FOUND',
    says: [/nowhere\.json/],
  },
  {
    what: 'a config that is not HJSON',
    ...config(file('broken.json', '{ "zero_optimization": { "stage": 1 ')),
    code: 'CONFIG_SYNTAX',
    says: [/broken\.json/],
  },
  {
    what: 'a config that names a key twice',
    ...config(file('twice.json', '{ "fp16": {},\n "bf16": {},\n "fp16": {} }')),
    code: 'CONFIG_SYNTAX',
    says: [/twice\.json/, /fp16/],
  },
  {
    what: 'a feature of DeepSpeed that is not there yet',
    ...config({ zero_optimization: { stage: 3, mics_shard_size: 2 } }),
    code: 'NOT_AVAILABLE_YET',
    says: [/zero_optimization\.mics_shard_size/],
  },
  {
    what: 'an unknown strategy',
    args: { strategy: 'deepspede' },
    code: 'STRATEGY_UNKNOWN',
    says: [/"deepspede".*"deepspeed"/],
  },
  {
    what: 'a strategy and a stage that contradict each other',
    args: { strategy: 'deepspeed_stage_1', deepspeed: { zero_optimization: { stage: 2 } } },
    code: 'STRATEGY_CONFLICT',
    says: [/deepspeed_stage_1/, /zero_optimization\.stage 2/],
  },
  {
    what: 'a model folder without config.json',
    model: temporaryFolder(),
    code: 'MODEL_FOLDER_INVALID',
    says: [/config\.json/],
  },
  {
    what: 'an unsupported model type',
    model: { ...tinyGpt2, model_type: 'mamba' },
    code: 'MODEL_UNSUPPORTED',
    says: [/mamba/, /gpt2/, /llama/],
  },
  {
    what: 'an empty dataset',
    ...samples(0),
    code: 'DATASET_EMPTY',
    says: [/no samples/],
  },
  {
    what: 'a dataset smaller than one global batch',
    ...samples(3),
    code: 'DATASET_TOO_SMALL',
    says: [/3 samples, one global batch takes 4 \(micro batch 2 x accumulation 1 x ranks 2\)/],
  },
  {
    what: 'a token outside the vocabulary',
    samples: [...raggedSamples(3), { input_ids: [5, 61, 7] }],
    code: 'DATASET_INVALID',
    says: [/sample 3: token 61 .* vocabulary of 61/],
  },
  {
    what: 'a sample longer than the model',
    samples: [...raggedSamples(3), { input_ids: new Array(33).fill(1) }],
    code: 'DATASET_INVALID',
    says: [/sample 3: 33 tokens.* at most 32/],
  },
  {
    what: 'labels of another length',
    samples: [...raggedSamples(3), { input_ids: [1, 2, 3], labels: [1, 2] }],
    code: 'DATASET_INVALID',
    says: [/sample 3: labels has 2 entries, input_ids 3/],
  },
  {
    what: 'a loss that becomes NaN',
    args: { learningRate: 1e30, maxGradNorm: 0 },
    code: 'LOSS_NOT_FINITE',
    says: [/step \d/, /weights are as after step \d/],
  },
  {
    what: 'snake_case arguments',
    args: { learning_rate: 1 } as never,
    code: 'ARGUMENTS_INVALID',
    says: [/learning_rate: write learningRate/],
  },
];

describe('is one clear error on every rank, and leaves nothing half-written', () => {
  it.each(badInputs)('$what', async ({ code, says, ...bad }) => {
    const outputDir = join(temporaryFolder(), 'out');
    const errors = await failRanks(2, {
      model: bad.model ?? tinyGpt2,
      samples: bad.samples ?? raggedSamples(8),
      args: {
        outputDir,
        maxSteps: 4,
        perDeviceTrainBatchSize: 2,
        saveStrategy: 'steps',
        ...bad.args,
      },
    });
    // Who meets bad data first says so; its peer may only hear of it.
    expect(errors.map((error) => error.code)).toContain(code);
    for (const error of errors) {
      if (error.code === code) for (const text of says) expect(error.message).toMatch(text);
      else expect(['PEER_FAILED', 'COMM_PEER_LEFT']).toContain(error.code);
    }
    for (const name of ['latest', 'global_step4'])
      expect(existsSync(join(outputDir, name))).toBe(false);
  });
});

it('a missing tokenizer names the file', async () => {
  await expect(loadTokenizer(folder)).rejects.toMatchObject({
    code: 'TOKENIZER_INVALID',
    message: expect.stringContaining('tokenizer.json'),
  });
});

it('configs of code and launcher that differ end the run with an error that names both', async () => {
  const scenario: Scenario = {
    model: tinyGpt2,
    samples: raggedSamples(8),
    args: {
      outputDir: join(folder, 'out'),
      deepspeed: file('code.json', '{ gradient_clipping: 1 }'),
    },
  };
  const { status, stderr } = await runLauncher([
    ...['--num_procs', '2', '--deepspeed', file('launcher.json', '{ gradient_clipping: 2 }')],
    fileURLToPath(new URL('fixtures/training/play.ts', import.meta.url)),
    file('scenario.json', JSON.stringify(scenario)),
  ]);
  expect(status).toBe(1);
  const report = lastWords(stderr);
  for (const text of ['code.json', 'launcher.json', 'gradient_clipping', 'CONFIG_CONFLICT']) {
    expect(report).toContain(text);
  }
  // Once for both ranks, with the place in the user's script.
  expect(stderr.split('CONFIG_CONFLICT')).toHaveLength(2);
  expect(report).toMatch(/^\[ranks 0-1\] {3}at .*fixtures\/training\//m);
  expect(existsSync(join(folder, 'out'))).toBe(false);
});
