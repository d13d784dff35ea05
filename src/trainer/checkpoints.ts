import { readdir, realpath, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { DeepSpeedError } from '../errors.ts';
import type { CheckpointEvent } from '../hooks/index.ts';
import { locate } from '../strategies/checkpoint/index.ts';
import type { CallbackStates } from './callback-state.ts';
import type { TrainerState } from './callbacks.ts';
import { SavingCheckpoint } from './saving-checkpoint.ts';
import type { Training } from './setup.ts';

/** What the host stores beside the shards. */
interface HostState {
  trainer: TrainerState;
  /** What decides the order of samples. */
  dataSeed: number;
  /** Absent in older checkpoints, as `unlogged` is. */
  callbacks?: CallbackStates;
  /** Losses of steps that no log entry has averaged yet. */
  unlogged?: LossTotal;
}

/** Losses of some steps, for their mean. */
export interface LossTotal {
  sum: number;
  steps: number;
}

/** What a run keeps beside `TrainerState`. */
export interface RunState {
  callbacks: CallbackStates;
  unlogged: LossTotal;
}

/** The folder of the checkpoint after `step` optimizer steps, below outputDir. */
export function checkpointTag(step: number): string {
  return `global_step${step}`;
}

const tagPattern = /^global_step(\d+)$/;

/**
 * Writes `outputDir/global_step<N>`; every rank must call it.
 *
 * @returns under `asyncSave` the checkpoint that has been begun
 */
export async function saveTrainerCheckpoint(
  training: Training,
  state: TrainerState,
  run: RunState,
): Promise<{ folder: string; saving: SavingCheckpoint | null }> {
  const { args, session } = training;
  const tag = checkpointTag(state.step);
  const { bestCheckpoint } = state;
  const stored: HostState = {
    trainer: state,
    dataSeed: args.dataSeed ?? args.seed,
    ...run,
  };
  const event: CheckpointEvent = {
    directory: args.outputDir,
    tag,
    state: { step: state.step, host: stored },
    excludeFrozenParameters: args.excludeFrozenParameters,
    background: args.asyncSave,
    onLoadable: () => rotate(args.outputDir, args.saveTotalLimit, tag, bestCheckpoint),
  };
  await session.lifecycle.run('saveCheckpoint', event);
  const folder = join(args.outputDir, tag);
  return { folder, saving: event.pending ? new SavingCheckpoint(folder, event.pending) : null };
}

/**
 * Loads what `resumeFromCheckpoint` names: true or 'auto' the newest in outputDir, a string a checkpoint
 * directory or one tag's folder.
 *
 * @returns null when there is nothing to resume from and 'auto' allows that
 */
export async function loadTrainerCheckpoint(
  training: Training,
  from: true | string,
): Promise<{ state: TrainerState; run: RunState; folder: string } | null> {
  const { args, session } = training;
  const directory = from === true || from === 'auto' ? args.outputDir : from;
  const found = await locate(directory);
  if (!found) {
    if (from === 'auto') return null;
    throw new DeepSpeedError('CHECKPOINT_NOT_FOUND', `there is no checkpoint in ${directory}`, {
      fix: 'Start without resumeFromCheckpoint, or use "auto" to resume only when there is one.',
      data: { directory },
    });
  }
  await training.saving?.read();
  const event = { ...found, state: {} as Record<string, unknown> };
  await session.lifecycle.run('loadCheckpoint', event);
  const host = event.state.host as HostState;
  const folder = join(found.directory, found.tag);
  const dataSeed = args.dataSeed ?? args.seed;
  if (host.dataSeed !== dataSeed) {
    process.emitWarning(
      `${folder} was written with data seed ${host.dataSeed}, this run uses ${dataSeed}: ` +
        'samples of the epoch under way may be seen twice or not at all',
      { code: 'DEEPSPEED_JS_DATA_SEED' },
    );
  }
  const { callbacks = {}, unlogged = { sum: 0, steps: 0 } } = host;
  return { state: host.trainer, run: { callbacks, unlogged }, folder };
}

/**
 * What a run resumed from `folder` calls that one's best checkpoint, and finds there at its end; null, with a warning
 * where it would be loaded, if it is gone. Every rank must call it.
 */
export async function bestOfResumed(
  { args, scalars, runtime }: Training,
  best: string | null,
  folder: string,
): Promise<string | null> {
  if (best === null) return null;
  const path = resolve(dirname(folder), best);
  const [found] = await scalars.sum([(await locate(path)) ? 1 : 0]);
  if (found === runtime.worldSize) {
    // By whatever name: what lies below outputDir goes by its tag, so that rotation knows it.
    const real = (place: string) => realpath(place).catch(() => resolve(place));
    return (await real(dirname(path))) === (await real(args.outputDir)) ? basename(path) : path;
  }
  if (args.loadBestModelAtEnd) {
    process.emitWarning(
      `the best checkpoint so far, ${path}, is gone: loadBestModelAtEnd takes the best from here on`,
      { code: 'DEEPSPEED_JS_BEST_GONE' },
    );
  }
  return null;
}

/** Deletes the oldest checkpoints beyond the limit; never the newest nor the best. */
async function rotate(
  directory: string,
  limit: number | undefined,
  newest: string,
  best: string | null,
): Promise<void> {
  if (limit === undefined) return;
  const names = (await readdir(directory)).filter((name) => tagPattern.test(name));
  // By age and not by step: an earlier run may have left higher numbers here. Clocks of file systems tick by milliseconds.
  const aged = await Promise.all(
    names.map(async (name) => ({ name, time: (await stat(join(directory, name))).mtimeMs })),
  );
  const stepOf = ({ name }: { name: string }) => Number(tagPattern.exec(name)![1]);
  const tags = aged
    .sort((a, b) => a.time - b.time || stepOf(a) - stepOf(b))
    .map(({ name }) => name);
  const removable = tags.filter((tag) => tag !== newest && tag !== best);
  const excess = tags.length - Math.max(limit, tags.length - removable.length);
  for (const tag of removable.slice(0, excess)) {
    await rm(join(directory, tag), { recursive: true, force: true });
  }
}
