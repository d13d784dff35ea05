/**
 * checkpoint.ts SHAPE FOLDER: `save` is answered with the seconds of a checkpoint that is waited for, `load` with those
 * of loading it, `steps` with those of two steps, `beside` with those of as many and a checkpoint written while they
 * compute, until it is loadable, `spent` with what in the last `beside` was done or waited for because of the save alone, as JSON
 * of Spent, `bytes` with the checkpoint's bytes. A new one has a name of its own; that the one before is deleted takes none of
 * these times.
 */
import { readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { CheckpointEvent } from '../../src/hooks/index.ts';
import { SavingCheckpoint } from '../../src/trainer/saving-checkpoint.ts';
import { trainStep } from '../../src/trainer/step.ts';
import { timed } from '../lib.ts';
import { type ModelShape, globalBatches, setUpModel } from './model.ts';
import { serve } from './serve.ts';

const shape = JSON.parse(process.argv[2]!) as ModelShape;
const directory = process.argv[3]!;
const training = await setUpModel(shape, {
  strategy: 'deepspeed',
  deepspeed: { train_micro_batch_size_per_gpu: shape.rows, zero_optimization: { stage: 2 } },
});
const { lifecycle } = training.session;
const { engine } = training.runtime;
const { value: parts } = await globalBatches(training).next();
/** Each as long as a save at least: it is written beside the first, and gets its name beside the second. */
const steps = 2;
let saves = 0;
const lastTag = () => `bench-${saves}`;

/** The checkpoint before goes, untimed. */
function makeRoom(): void {
  rmSync(join(directory, lastTag()), { recursive: true, force: true });
  saves += 1;
}

async function begin(background: boolean) {
  const event: CheckpointEvent = { directory, tag: lastTag(), state: { step: 1 }, background };
  await lifecycle.run('saveCheckpoint', event);
  return event.pending!;
}

/** Seconds of the loop. */
export interface Spent {
  /** In calls: beginning a save, going on with it after a step, waiting for its end. */
  calls: number;
  /** Of updates, for what had not been read. */
  waits: number;
}
let spent: Spent = { calls: 0, waits: 0 };

/** Counts what a step does for it. */
class WatchedCheckpoint extends SavingCheckpoint {
  override async afterStep(allReady: boolean): Promise<void> {
    spent.calls += await timed(() => super.afterStep(allReady));
  }
}

async function stepsBesideSave(): Promise<void> {
  spent = { calls: 0, waits: 0 };
  spent.calls += await timed(async () => {
    training.saving = new WatchedCheckpoint(directory, await begin(true));
  });
  await takeSteps();
  spent.calls += await timed(() => training.saving!.finish());
  training.saving = null;
}

async function takeSteps(): Promise<void> {
  for (let step = 0; step < steps; step += 1) await trainStep(training, step, parts!);
}

await serve(training.runtime.communicator, async (request) => {
  switch (request) {
    case 'save':
      makeRoom();
      return String(await timed(() => begin(false)));
    case 'load':
      return String(
        await timed(() =>
          lifecycle.run('loadCheckpoint', { directory, tag: lastTag(), state: {} }),
        ),
      );
    case 'steps':
      return String(await timed(takeSteps));
    case 'beside': {
      makeRoom();
      engine.setTracing(true);
      const seconds = await timed(stepsBesideSave);
      engine.setTracing(false);
      const waits = engine.takeRecords().filter(({ name }) => name === 'wait for checkpoint');
      spent.waits = waits.reduce((sum, { startNs, endNs }) => sum + (endNs - startNs), 0) / 1e9;
      return String(seconds);
    }
    case 'spent':
      return JSON.stringify(spent);
    default: {
      const files = readdirSync(join(directory, lastTag()));
      return String(
        files.reduce((sum, file) => sum + statSync(join(directory, lastTag(), file)).size, 0),
      );
    }
  }
});
training.runtime.close();
