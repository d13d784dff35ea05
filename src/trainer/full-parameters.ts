import { DeepSpeedError } from '../errors.ts';
import { requireOwner } from '../session.ts';
import { gatherJson } from '../strategies/agree.ts';
import type { Training } from './setup.ts';

/** The fp32 value of a parameter, whole on every rank: in 16-bit training the optimizer's, not the rounded one. */
export function fullParameter({ session }: Training, name: string): Promise<Float32Array> {
  return requireOwner(session, 'weights').read(name);
}

/** Sets a parameter to what rank `from` gives, on every rank. */
export async function setFullParameter(
  training: Training,
  name: string,
  values: Float32Array,
  from: number,
): Promise<void> {
  await training.saving?.read();
  await requireOwner(training.session, 'weights').write(name, values, from);
}

/** DeepSpeed's zero.GatheredParameters: `modifierRank`'s changes are kept, others are not. */
export async function gatherParameters<T>(
  training: Training,
  names: readonly string[],
  use: (parameters: ReadonlyMap<string, Float32Array>) => T | Promise<T>,
  modifierRank: number | null,
): Promise<T> {
  requireRank(training, modifierRank);
  await requireSameNames(training, names);
  const parameters = new Map<string, Float32Array>();
  for (const name of names) parameters.set(name, await fullParameter(training, name));
  try {
    const result = await use(parameters);
    if (modifierRank !== null) {
      for (const [name, values] of parameters) {
        await setFullParameter(training, name, values, modifierRank);
      }
    }
    return result;
  } finally {
    // What is kept beyond the call would be a stale copy: it becomes an array of no elements.
    for (const { buffer } of parameters.values()) {
      structuredClone(buffer, { transfer: [buffer as ArrayBuffer] });
    }
  }
}

function requireRank({ runtime }: Training, rank: number | null): void {
  if (rank === null || (Number.isInteger(rank) && rank >= 0 && rank < runtime.worldSize)) return;
  throw new DeepSpeedError(
    'ARGUMENTS_INVALID',
    `gatheredParameters() got modifierRank ${rank}, and there are ranks 0 to ${runtime.worldSize - 1}`,
  );
}

/** Ranks that ask for different parameters would wait for each other in vain. */
async function requireSameNames(training: Training, names: readonly string[]): Promise<void> {
  const all = await gatherJson(training.runtime, names);
  const other = all.findIndex((theirs) => theirs.join() !== all[0]!.join());
  if (other < 0) return;
  throw new DeepSpeedError(
    'RANKS_DIFFER',
    `the ranks gather different parameters: ${all[0]!.join(', ')} on rank 0, ${all[other]!.join(', ')} on rank ${other}`,
    { fix: 'Call gatheredParameters() with the same names on every rank.' },
  );
}
