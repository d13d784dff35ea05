import { copyFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder } from '../folders.ts';
import { agree } from '../strategies/agree.ts';
import type { TrainableModel } from '../hosts/onnx/model.ts';
import { writable } from '../models/index.ts';
import type { Training } from './setup.ts';

const tokenizerFiles = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'];

/** Rank 0 writes the folder; a failure there is the same error on every rank. */
export async function saveTrainedModel(
  training: Training,
  model: TrainableModel,
  folder: string,
  tokenizer: string | undefined,
): Promise<void> {
  if (training.runtime.rank === 0) warnAboutDenseExport(training, folder);
  await onRankZero(training, model, folder, async (value) => {
    await model.save(folder, value);
    for (const file of tokenizer === undefined ? [] : tokenizerFiles) {
      const source = join(tokenizer!, file);
      const target = join(folder, file);
      if (existsSync(source)) await writable(target, () => copyFile(source, target));
    }
  });
}

/** Standard operators know no blocks: what a layout left out, the written model attends to. */
function warnAboutDenseExport({ recipe }: Training, folder: string): void {
  const { mode = 'dense' } = recipe.config?.sparse_attention ?? {};
  if (mode === 'dense') return;
  process.emitWarning(`the model in ${folder} attends to everything, not by sparse_attention`, {
    code: 'DEEPSPEED_JS_DENSE_EXPORT',
    detail: 'evaluate(), predict() and generate() of the Trainer use the layout.',
  });
}

/** Rank 0 writes the weights in the type that they are stored in. */
export async function saveWeights(
  training: Training,
  model: TrainableModel,
  folder: string,
): Promise<void> {
  const { storage } = training.session.precision;
  await onRankZero(training, model, folder, (value) => model.saveWeights!(folder, value, storage));
}

/**
 * Calls `write` on rank 0 with the values that the model computes with. Where parameters are sharded they
 * are gathered one by one, and rank 0 holds all of them until the folder is written.
 */
async function onRankZero(
  { runtime, host }: Training,
  model: TrainableModel,
  folder: string,
  write: (value: (parameter: string) => Float32Array) => Promise<void>,
): Promise<void> {
  await runtime.engine.idle();
  const values = new Map<string, Float32Array>();
  for (const { name } of model.parameters) {
    const value = host.parameter(name);
    if (runtime.rank === 0) values.set(name, value);
  }
  await agree(runtime, async () => {
    if (runtime.rank !== 0) return;
    await writable(folder, async () => makeFolder(folder));
    await write((name) => values.get(name)!);
  });
}
