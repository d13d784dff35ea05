/** Which cores the ranks of one machine run on. */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { DeepSpeedError } from '../errors.ts';
import { loadAddon } from '../native/index.ts';

/** Parses `0-3,8` (Linux and DeepSpeed write core lists so) into ascending numbers without repeats. */
export function parseCoreList(list: string): number[] {
  const cores = new Set<number>();
  for (const part of list.split(',')) {
    const match = /^\s*(\d+)(?:-(\d+))?\s*$/.exec(part);
    const first = Number(match?.[1]);
    const last = match?.[2] === undefined ? first : Number(match[2]);
    if (!match || last < first)
      throw new DeepSpeedError(
        'LAUNCHER_USAGE',
        `"${list}" is not a list of cores: got "${part}", expected a number or a range`,
        { fix: 'Write it like 0-3,8.', data: { list } },
      );
    for (let core = first; core <= last; core++) cores.add(core);
  }
  return [...cores].sort((a, b) => a - b);
}

/** So many whole cores' worth of time this process gets: quotas of containers included, at least one. */
export function usableCores(): number {
  return Math.max(1, Math.floor(loadAddon().systemLimits().cores));
}

/** The cores this process may run on: its affinity mask on Linux, all of them elsewhere. */
export function allowedCores(): number[] {
  if (process.platform === 'linux') {
    const status = readFileSync('/proc/self/status', 'utf8');
    const list = /^Cpus_allowed_list:\s*(\S+)/m.exec(status)?.[1];
    if (list !== undefined) return parseCoreList(list);
  }
  return Array.from({ length: availableParallelism() }, (_, core) => core);
}

/**
 * Splits the cores into one contiguous run per rank; neighbours share caches. The first
 * `cores.length % ranks` ranks get one core more.
 *
 * @throws DeepSpeedError LAUNCHER_USAGE when there are fewer cores than ranks.
 */
export function splitCores(cores: readonly number[], ranks: number): number[][] {
  if (cores.length < ranks)
    throw new DeepSpeedError(
      'LAUNCHER_USAGE',
      `${ranks} ranks cannot be bound to ${cores.length} cores (${cores.join(',')}): each needs one of its own`,
      { fix: `Use --num_procs ${cores.length} or fewer, or leave out --bind_cores_to_rank.` },
    );
  const each = Math.floor(cores.length / ranks);
  const larger = cores.length % ranks;
  return Array.from({ length: ranks }, (_, rank) => {
    const first = rank * each + Math.min(rank, larger);
    return cores.slice(first, first + each + (rank < larger ? 1 : 0));
  });
}

/**
 * The cores of each rank under `--bind_cores_to_rank`, from `--bind_core_list` or else all allowed.
 *
 * @throws DeepSpeedError LAUNCHER_USAGE for a core that this process may not use.
 */
export function bindingPlan(ranks: number, list: string | null): number[][] {
  const allowed = allowedCores();
  if (list === null) return splitCores(allowed, ranks);
  const wanted = parseCoreList(list);
  const foreign = wanted.filter((core) => !allowed.includes(core));
  if (foreign.length > 0)
    throw new DeepSpeedError(
      'LAUNCHER_USAGE',
      `--bind_core_list ${list} names cores that this process may not use: ${foreign.join(',')}`,
      { fix: `Choose from ${allowed.join(',')}.`, data: { foreign, allowed } },
    );
  return splitCores(wanted, ranks);
}
