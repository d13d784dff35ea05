/** Looking at whole fp32 parameters and setting them, wherever their shards are. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { SafetensorsFile } from '../src/models/index.ts';
import type { Outcome, Scenario } from './fixtures/training/scenario.ts';
import { playRanks, raggedSamples, temporaryFolder, tinyGpt2 } from './training.ranks.ts';

const samples = raggedSamples(12);
const names = [
  'transformer.wte.weight',
  'transformer.h.0.attn.c_attn.weight',
  'transformer.ln_f.bias',
];

function train(
  stage: number,
  worldSize: number,
  precision: string | null,
  freeze?: string,
  optimizer = 'AdamW',
): Promise<Outcome[]> {
  const scenario: Scenario = {
    model: tinyGpt2,
    ...(freeze !== undefined && { freeze }),
    samples,
    lookAt: names,
    evaluateOn: samples,
    // What is frozen is fp32 until it is saved.
    ...(freeze === undefined && { save16To: join(temporaryFolder(), 'model') }),
    args: {
      outputDir: temporaryFolder(),
      maxSteps: 2,
      deepspeed: {
        train_micro_batch_size_per_gpu: 6 / worldSize,
        optimizer: { type: optimizer, params: { lr: 2e-3 } },
        ...(precision !== null && { [precision]: { enabled: true } }),
        zero_optimization: { stage, stage3_param_persistence_threshold: 100 },
      },
    },
  };
  return playRanks(worldSize, scenario).then((outcomes) => {
    if (scenario.save16To) expectSaved(outcomes[0]!, scenario.save16To, precision);
    return outcomes;
  });
}

/** `save16bitModel` writes what the model computes with, in the type it is stored in. */
function expectSaved({ parameters }: Outcome, folder: string, precision: string | null): void {
  const file = new SafetensorsFile(join(folder, 'model.safetensors'));
  for (const [name, values] of Object.entries(parameters)) {
    expect(file.tensors.get(name)!.dtype).toBe(precision === null ? 'float32' : 'bfloat16');
    const bytes = file.readBytes(name);
    const stored =
      precision === null
        ? new Float32Array(bytes.buffer)
        : Float32Array.from(new Uint16Array(bytes.buffer), bfloat16);
    expect(stored).toEqual(values);
  }
  file.close();
}

function bfloat16(bits: number): number {
  return new Float32Array(Uint32Array.of(bits << 16).buffer)[0]!;
}

describe.each([null, 'bf16'])('precision %s', (precision) => {
  it.each([1, 2])('is the same at every stage, %i ranks', async (worldSize) => {
    const [plain] = await train(0, worldSize, precision);
    for (const stage of [1, 2, 3]) {
      for (const outcome of await train(stage, worldSize, precision)) {
        expect(outcome.full).toEqual(plain!.full);
        expect(outcome.evaluation).toEqual(plain!.evaluation);
        expect(outcome.parameters).toEqual(plain!.parameters);
      }
    }
    const { trained, doubled, doubledModel, modified, discarded, keptLength } = plain!.full!;
    expect(doubled).toEqual(trained[names[0]!]!.map((value) => 2 * value));
    // What the model reads is the same number, rounded to its eight bits in 16-bit training.
    const error = precision === null ? 0 : 2 ** -8;
    for (const [at, value] of doubled.entries()) {
      expect(Math.abs(doubledModel[at]! - value)).toBeLessThanOrEqual(error * Math.abs(value));
    }
    for (const values of modified) expect(new Set(values)).toEqual(new Set([worldSize]));
    expect(discarded).toEqual(modified[0]);
    expect(keptLength).toBe(0);
  });
});

it.each([null, 'bf16'])('frozen ones, too: precision %s', async (precision) => {
  for (const freeze of ['transformer.wte', 'transformer.h.0']) {
    const [plain] = await train(2, 2, precision, freeze);
    for (const outcome of await train(3, 2, precision, freeze)) {
      expect(outcome.full).toEqual(plain!.full);
      expect(outcome.evaluation).toEqual(plain!.evaluation);
      expect(outcome.parameters).toEqual(plain!.parameters);
    }
  }
});

it('0/1 Adam, which has weights besides the model’s: those of Adam while it steps as Adam does', async () => {
  const [dense] = await train(0, 2, null);
  const [own] = await train(0, 2, null, undefined, 'ZeroOneAdam');
  expect(own!.full).toEqual(dense!.full);
  expect(own!.parameters).toEqual(dense!.parameters);
});
