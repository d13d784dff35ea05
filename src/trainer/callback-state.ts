import { DeepSpeedError } from '../errors.ts';
import { gatherJson, type Peers } from '../strategies/agree.ts';
import type { TrainerCallback } from './callbacks.ts';

/** What callbacks remember, by name; several of one name are numbered in their order. */
export type CallbackStates = Record<string, unknown>;

/** A callback that keeps something in checkpoints. */
type Stateful = TrainerCallback & Required<Pick<TrainerCallback, 'saveState' | 'loadState'>>;

/**
 * The callbacks of this rank that keep something in checkpoints, by the key under which they do.
 *
 * @throws ARGUMENTS_INVALID for one that lacks its name or one of the two methods
 */
export function statefulCallbacks(
  callbacks: readonly TrainerCallback[],
): ReadonlyMap<string, Stateful> {
  const found = new Map<string, Stateful>();
  for (const callback of callbacks) {
    if (!callback.saveState && !callback.loadState) continue;
    const { name } = callback;
    if (!name || !callback.saveState || !callback.loadState) {
      throw new DeepSpeedError(
        'ARGUMENTS_INVALID',
        `a callback${name ? ` "${name}"` : ''} that keeps a state needs a name, saveState and loadState`,
      );
    }
    let key = name;
    for (let number = 2; found.has(key); number += 1) key = `${name}#${number}`;
    found.set(key, callback as Stateful);
  }
  return found;
}

/** Of all ranks, since they may have different callbacks; the lowest rank's where several have one. */
export async function collectStates(
  peers: Peers,
  callbacks: ReadonlyMap<string, Stateful>,
): Promise<CallbackStates> {
  const own = Object.fromEntries([...callbacks].map(([key, one]) => [key, one.saveState()]));
  const all = await gatherJson<CallbackStates>(peers, own);
  return Object.assign({}, ...all.toReversed()) as CallbackStates;
}

/** A callback that the checkpoint does not know starts afresh. */
export function restoreStates(
  callbacks: ReadonlyMap<string, Stateful>,
  stored: CallbackStates,
): void {
  for (const [key, callback] of callbacks) {
    if (Object.hasOwn(stored, key)) callback.loadState(stored[key]);
  }
}
