/**
 * Probes among the ranks of one machine, through shared memory. Where there are cores enough each rank keeps its own,
 * in every probe.
 */
import { allowedCores, bindingPlan, usableCores } from '../cores.ts';
import { LaunchedProbes } from './launched-probe.ts';
import type { Lost, Probe, ProbePlan, Probes } from './probes.ts';

export class RankProbes implements Probes {
  readonly names: readonly string[];
  readonly sharesCores: boolean;
  /** Nobody is lost here: a rank is started anew for each probe. */
  readonly lost: readonly Lost[] = [];
  /** Of each rank, or null where they share the cores. */
  readonly #cores: number[][] | null;
  readonly #launched: LaunchedProbes;

  constructor(ranks: number, probeMs: number) {
    this.#launched = new LaunchedProbes(probeMs);
    const cores = usableCores();
    this.sharesCores = ranks > cores;
    const each = Math.floor(Math.min(cores, allowedCores().length) / ranks);
    this.#cores = each === 0 ? null : bindingPlan(ranks, null).map((cores) => cores.slice(0, each));
    this.names = Array.from({ length: ranks }, (_, rank) => {
      const cores = this.#cores?.[rank];
      if (cores === undefined) return `rank ${rank}`;
      return `rank ${rank} (${cores.length === 1 ? 'core' : 'cores'} ${cores.join(',')})`;
    });
  }

  present(): number[] {
    return [...this.names.keys()];
  }

  measure(groups: readonly (readonly number[])[], plan: ProbePlan): Promise<Probe[]> {
    return Promise.all(
      groups.map((group) => {
        const cores = this.#cores && group.flatMap((member) => this.#cores![member]!);
        return this.#launched.measure({ ranks: group.length, cores, hosts: null, plan });
      }),
    );
  }

  async close(): Promise<void> {
    this.#launched.close();
  }
}
