/** How many ranks one machine is asked for, and how many of them it can hold. */
import { DeepSpeedError } from '../errors.ts';

/** What a rank has for itself before its script loads anything (measured: 24 to 29 MB). */
const RANK_BYTES = 24 * 2 ** 20;
/**
 * To start a rank takes a core a quarter of a second: with so many, 8 s pass before any of them trains. A few ranks a
 * core are common in tests; who asks for more has mistyped, or knows.
 */
const RANKS_PER_CORE = 32;

/** `systemLimits()` of the engine; whole cores. */
export interface MachineRoom {
  cores: number;
  memoryAvailable: number;
}

/**
 * Throws before anything is started for ranks that a machine cannot hold, or cannot be meant to.
 *
 * @param oversubscribe more ranks a core than make sense are meant
 */
export function requireRoom(
  ranks: number,
  { cores, memoryAvailable }: MachineRoom,
  oversubscribe: boolean,
): void {
  const inMemory = Math.max(1, Math.floor(memoryAvailable / RANK_BYTES));
  const onCores = cores * RANKS_PER_CORE;
  const here = cores === 1 ? '1 core' : `${cores} cores`;
  const data = { ranks, cores, inMemory };
  if (ranks > inMemory)
    throw new DeepSpeedError(
      'OUT_OF_MEMORY',
      `${ranks} ranks need ${inGiB(ranks * RANK_BYTES)} before their scripts load anything; ${inGiB(memoryAvailable)} are free, enough for ${inMemory}`,
      { fix: `Use --num_procs ${cores}: this machine has ${here}.`, data },
    );
  if (ranks > onCores && !oversubscribe)
    throw new DeepSpeedError(
      'LAUNCHER_USAGE',
      `${ranks} ranks are more than ${RANKS_PER_CORE} for each of the ${here} of this machine: ${onCores}`,
      {
        fix: `Use --num_procs ${cores}. Should more than ${onCores} be meant, say --oversubscribe: memory holds at most ${inMemory}.`,
        data,
      },
    );
}

function inGiB(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}
