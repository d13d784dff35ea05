/**
 * What every strategy must keep to, ours or a third party's, asked with a host whose gradients are a
 * formula. Ranks are worker threads, so the strategy is named by the module that makes it.
 *
 * @example
 * strategyConformance({
 *   name: 'lazy',
 *   module: new URL('./lazy.ts', import.meta.url), // exports strategy(): StrategyPlugin
 *   config: { lazy: { every: 2 } },
 *   misspelt: [{ config: { lazy: { evry: 2 } }, key: 'lazy.evry' }],
 * });
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { Capability } from '../hooks/index.ts';
import { attemptRanks, runRanks } from '../trainer/testing/run-ranks.ts';
import type { Place, StrategyTask } from './testing/conformance.fixture.ts';

export interface StrategyCase {
  readonly name: string;
  /** Exports `strategy(): StrategyPlugin`. */
  readonly module: URL;
  /** The ds_config that switches on what is tested. */
  readonly config?: Record<string, unknown>;
  /** Configs that must be refused, each with the path that the message names. */
  readonly misspelt?: readonly { config: Record<string, unknown>; key: string }[];
  /** What it needs of a host, and the config key that makes it need that. */
  readonly needs?: readonly {
    capability: Capability;
    key: string;
    config?: Record<string, unknown>;
  }[];
}

const fixture = new URL('./testing/conformance.fixture.ts', import.meta.url);

interface Trained {
  initial: Record<string, Float32Array>;
  final: Record<string, Float32Array>;
  allocations: number[];
  norms: number[];
  lossScales: number[][];
}

export function strategyConformance(strategy: StrategyCase): void {
  const { config = {}, misspelt = [], needs = [] } = strategy;

  type Run = [scenario: StrategyTask['scenario'], worldSize: number, rest?: Partial<StrategyTask>];
  const taskOf = ([scenario, , rest = {}]: Run): StrategyTask => ({
    module: strategy.module.href,
    scenario,
    config,
    ...rest,
  });
  const play = <T>(...run: Run) => runRanks<StrategyTask, T>(fixture, run[1], taskOf(run));
  const attempt = (...run: Run) => attemptRanks(fixture, run[1], taskOf(run));

  describe(`strategy ${strategy.name}`, () => {
    it('claims and taps in `apply` and never again, under names that say whose they are', async () => {
      type Applied = { taps: Record<string, string[]>; claims: { claim: string }[] };
      const [applied] = await play<{ promised: boolean; before: Applied; after: Applied }>(
        'apply',
        1,
      );
      const { promised, before, after } = applied!;
      expect(promised).toBe(false);
      expect(after).toEqual(before);
      const claims = before.claims.map(({ claim }) => claim).sort();
      expect(claims).toEqual(expect.arrayContaining(['gradients', 'optimizerStep']));
      for (const name of Object.values(before.taps).flat()) {
        expect(name).toMatch(/^[a-z]\w*\.\w+$/i);
      }
    });

    it('gives every gradient a place of its own for as long as it is needed', async () => {
      for (const places of await play<Place[]>('places', 2)) {
        for (const place of places) {
          expect(place.start % 4, place.parameter).toBe(0);
          expect(place.start, place.parameter).toBeGreaterThanOrEqual(0);
          expect(place.end, place.parameter).toBeLessThanOrEqual(place.bytes);
        }
        const clashes = places.flatMap((one, at) =>
          places
            .slice(at + 1)
            .filter((other) => meet(one, other))
            .map((other) => [one.parameter, other.parameter]),
        );
        expect(clashes).toEqual([]);
      }
    });

    it("hands the optimizer this rank's shard of the gradient", async () => {
      for (const { count, owned } of await play<{ count: number; owned: number }>('reduced', 2)) {
        expect(count).toBe(owned);
      }
    });

    it.each([1, 2])(
      'trains on %i ranks: equal parameters, steady memory, an even scale',
      async (worldSize) => {
        const ranks = await play<Trained>('train', worldSize);
        for (const { initial, final, allocations, norms, lossScales } of ranks) {
          expect(final).toEqual(ranks[0]!.final);
          expect(norms).toEqual(ranks[0]!.norms);
          expect(norms.every((norm) => norm > 0)).toBe(true);
          for (const [name, values] of Object.entries(final)) {
            expect(values.every(Number.isFinite), name).toBe(true);
            expect(values, name).not.toEqual(initial[name]);
          }
          expect(allocations.slice(2)).toEqual([allocations[1], allocations[1]]);
          for (const scales of lossScales) expect(new Set(scales).size).toBe(1);
        }
      },
    );

    it('gives the same bits twice', async () => {
      const [first, second] = [await play<Trained>('train', 2), await play<Trained>('train', 2)];
      expect(second).toEqual(first);
    });

    it('resumes from a checkpoint as if it had never stopped', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-strategy-'));
      onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
      expect(await play('save', 2, { folder })).toEqual(await play('resume', 2, { folder }));
    });

    it('shuts down before the first step, too', async () => {
      await play('shutdown', 2);
    });

    it('is refused beside another owner of what it claims', async () => {
      const [result] = await attempt('applyTwice', 1);
      expect(result!.error).toMatchObject({ code: 'CLAIM_CONFLICT' });
    });

    it.each(misspelt.map(({ config: wrong, key }) => [key, wrong] as const))(
      'refuses %s in its config, by name',
      async (key, wrong) => {
        const [result] = await attempt('open', 1, { config: wrong });
        expect(result!.error).toMatchObject({
          code: 'CONFIG_INVALID',
          message: expect.stringContaining(key),
        });
      },
    );

    it.each(needs)('stops where the host has no $capability, naming $key', async (need) => {
      const [result] = await attempt('open', 1, {
        config: need.config ?? config,
        lacking: [need.capability],
      });
      expect(result!.error).toMatchObject({
        code: 'HOST_LACKS_CAPABILITY',
        message: expect.stringContaining(need.key),
      });
    });
  });
}

/** Both are written by the backward of one segment, into overlapping memory. */
function meet(one: Place, other: Place): boolean {
  const together = one.segments.some((segment) => other.segments.includes(segment));
  return together && one.buffer === other.buffer && one.start < other.end && other.start < one.end;
}
