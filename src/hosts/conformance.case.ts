/**
 * What every host must do, asked of it from the outside: a strategy that watches sees the same hooks, in
 * the same order and as often, whoever owns the loop. A host's test file calls `hostConformance`.
 *
 * @example
 * hostConformance({ name: 'onnx', train: async ({ plugin, deepspeed, steps }) => { ... } });
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { type Capability, requireCapability, type StepPlan } from '../hooks/index.ts';
import type { StrategyPlugin } from '../strategies/plugin.ts';
import { type Observed, observedStrategy, type ObserverOptions } from './testing/observer.ts';

/** A run of a host, from fresh weights (always the same ones) to the closed session. */
export interface HostTask {
  plugin: StrategyPlugin;
  /** The ds_config: plain SGD, accumulation of `microBatches`. */
  deepspeed: Record<string, unknown>;
  /** Optimizer steps in all, those before a resume included. All batches have one shape. */
  steps: number;
  /** Micro batches of each step. */
  microBatches: number;
  /** After the last step: a forward-only pass over some data. */
  evaluate?: boolean;
  /** After the last step: a checkpoint into this folder. */
  saveTo?: string;
  /** Before the first step: the newest checkpoint of this folder. */
  resumeFrom?: string;
}

export interface HostCase {
  readonly name: string;
  /** Claims that the host cannot do without, in the order in which it asks. */
  readonly needs: readonly ('gradients' | 'optimizerStep')[];
  /** What the host offers besides training; the suite leaves the other checks out. */
  readonly offers: ReadonlySet<'evaluate' | 'checkpoint'>;
  /** Runs the task on one rank and closes the session, also after an error, which it passes on. */
  train(task: HostTask): Promise<void>;
}

type RunOptions = Partial<Omit<HostTask, 'plugin' | 'deepspeed'>> & ObserverOptions;

const everyCapability: readonly Capability[] = [
  'segments',
  'layerSkipping',
  'attentionReplacement',
  'gatheredParameters',
  'activationCheckpointing',
];

export function hostConformance(host: HostCase): void {
  const folders: string[] = [];
  afterEach(() => {
    for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
  });
  const folder = () => {
    folders.push(mkdtempSync(join(tmpdir(), 'deepspeed-js-host-')));
    return folders.at(-1)!;
  };

  /** Trains with a strategy that watches; the observation is there also when the run fails. */
  async function attempt(options: RunOptions = {}): Promise<{ seen: Observed; error?: Error }> {
    const { steps = 2, microBatches = 2, evaluate, saveTo, resumeFrom, ...watch } = options;
    const { plugin, seen } = observedStrategy(watch);
    try {
      await host.train({
        plugin,
        deepspeed: {
          optimizer: { type: 'SGD', params: { lr: 0.1 } },
          gradient_clipping: 0,
          gradient_accumulation_steps: microBatches,
        },
        steps,
        microBatches,
        ...(evaluate && { evaluate }),
        ...(saveTo && { saveTo }),
        ...(resumeFrom && { resumeFrom }),
      });
      return { seen };
    } catch (error) {
      return { seen, error: error as Error };
    }
  }

  async function run(options?: RunOptions): Promise<Observed> {
    const { seen, error } = await attempt(options);
    if (error) throw error;
    return seen;
  }

  describe(`the ${host.name} host`, () => {
    it('announces segments, and parameters in the order in which backward completes them', async () => {
      const { host: announced, groups } = await run();
      const { segments, parameters } = announced!;
      expect(new Set(segments).size).toBe(segments.length);
      expect(segments.length).toBeGreaterThan(0);
      if (!announced!.capabilities.has('segments')) expect(segments).toHaveLength(1);
      expect(new Set(parameters.map(({ name }) => name)).size).toBe(parameters.length);
      let last = segments.length - 1;
      for (const parameter of parameters) {
        const ascending = [...new Set(parameter.segments)].sort((a, b) => a - b);
        expect(parameter.segments, parameter.name).toEqual(ascending);
        expect(parameter.segments[0], parameter.name).toBeLessThanOrEqual(last);
        expect(parameter.segments.at(-1), parameter.name).toBeLessThan(segments.length);
        expect(parameter.group, parameter.name).toBeLessThan(groups);
        last = parameter.segments[0]!;
      }
    });

    it('sets up, writes parameters, trains and shuts down: each once, in this order', async () => {
      const seen = await run();
      const frame = ['setup', 'parametersWritten', 'metrics', 'shutdown', 'failed'];
      expect(seen.hooks().filter((hook) => frame.includes(hook))).toEqual([
        'setup',
        'parametersWritten',
        'metrics',
        'metrics',
        'shutdown',
      ]);
      for (const [name, values] of seen.initial!) {
        expect(values.every(Number.isFinite), name).toBe(true);
      }
      const known = [...seen.initial!.values()].some((values) => values.some((value) => value));
      expect(known).toBe(true);
    });

    it('fires each hook of each segment once a micro batch: forward, then backward in reverse', async () => {
      const seen = await run({ steps: 2, microBatches: 2 });
      const count = seen.host!.segments.length;
      const expected: unknown[] = [];
      for (let step = 0; step < 2; step += 1) {
        for (let microBatch = 0; microBatch < 2; microBatch += 1) {
          const plan: StepPlan = { training: true, step, microBatch, microBatches: 2 };
          expected.push(['planStep', plan]);
          for (let segment = 0; segment < count; segment += 1) {
            const event = { plan, segment, pass: 'forward' };
            expected.push(['acquire', event], ['forward', event], ['release', event]);
          }
          for (let segment = count - 1; segment >= 0; segment -= 1) {
            const event = { plan, segment, pass: 'backward' };
            expected.push(['acquire', event], ['backward', event], ['release', event]);
          }
        }
      }
      const hot = ['planStep', 'acquire', 'forward', 'backward', 'release'];
      expect(seen.events.filter(([hook]) => hot.includes(hook))).toEqual(expected);
    });

    it('gives the other hooks the plan that planStep came to', async () => {
      const changed = new WeakSet<StepPlan>();
      const seen = await run({
        planStep(plan) {
          const copy = { ...plan };
          changed.add(copy);
          return copy;
        },
      });
      expect(seen.plans.length).toBeGreaterThan(0);
      expect(seen.plans.every((plan) => changed.has(plan))).toBe(true);
    });

    it('asks for the place of every gradient, and what to wait for before each backward', async () => {
      const { host: announced, calls } = await run({ steps: 1, microBatches: 2 });
      const names = announced!.parameters.map(({ name }) => name);
      const placed = calls.flatMap((call) => (call.owner === 'location' ? [call.parameter] : []));
      expect(new Set(placed)).toEqual(new Set(names));
      const writing = new Set(announced!.parameters.flatMap(({ segments }) => segments));
      const order = calls.flatMap((call) =>
        call.owner === 'ready' || call.owner === 'backward' ? [[call.owner, call.segment]] : [],
      );
      // Hooks of a segment without parameters fire, and nobody needs to be asked before.
      const expected = [0, 1].flatMap(() =>
        announced!.segments
          .map((_, index) => announced!.segments.length - 1 - index)
          .flatMap((segment) => [
            ...(writing.has(segment) ? [['ready', segment]] : []),
            ['backward', segment],
          ]),
      );
      expect(
        order.filter(([owner, segment]) => owner === 'backward' || writing.has(segment as number)),
      ).toEqual(expected);
    });

    it('steps the optimizer once, after the last backward of a step, and then reports it', async () => {
      const seen = await run({ steps: 3, microBatches: 2 });
      const count = seen.host!.segments.length;
      const order = seen.calls
        .map(({ owner }) => owner)
        .filter((owner) => ['backward', 'enqueue', 'outcome', 'metrics'].includes(owner));
      const step = [...Array(2 * count).fill('backward'), 'enqueue', 'outcome', 'metrics'];
      expect(order).toEqual([...step, ...step, ...step]);
      expect(seen.metrics.map((metrics) => metrics.step)).toEqual([1, 2, 3]);
      for (const metrics of seen.metrics) {
        expect(Number.isFinite(metrics.loss)).toBe(true);
        expect(metrics.gradientNorm).toBeGreaterThan(0);
        expect(metrics.samples).toBeGreaterThan(0);
        expect(metrics).toMatchObject({ skipped: false, lossScale: 1 });
      }
      for (const context of seen.optimizerSteps) {
        expect(context.learningRates).toHaveLength(seen.groups);
        expect(context.plan).toMatchObject({ training: true, microBatch: 1, microBatches: 2 });
      }
      expect(seen.final).not.toEqual(seen.initial);
    });

    it('multiplies the loss by what the owner of gradients says: exact for a power of two', async () => {
      const plain = await run({ steps: 2, averaging: 1 });
      const scaled = await run({ steps: 2, averaging: 8 });
      for (const [step, gradients] of plain.gradients.entries()) {
        for (const [name, values] of gradients) {
          expect(scaled.gradients[step]!.get(name), name).toEqual(values.map((value) => value * 8));
        }
      }
      expect(plain.gradients).toHaveLength(2);
      expect(scaled.final).toEqual(plain.final);
    });

    it('adds micro batches up, or starts each from zero, as the owner of gradients says', async () => {
      const kept = await run({ stage: 0, microBatches: 3 });
      const handedOver = await run({ stage: 2, microBatches: 3 });
      for (const [name, values] of kept.final!) {
        const other = handedOver.final!.get(name)!;
        // Two orders of one sum: a few roundings of numbers as large as the parameters.
        const scale = Math.max(...values.map(Math.abs));
        const difference = Math.max(...values.map((value, at) => Math.abs(value - other[at]!)));
        expect(difference, name).toBeLessThanOrEqual(32 * 2 ** -24 * scale);
      }
    });

    it('gives the same numbers in the next session of the process', async () => {
      const [first, second] = [await run(), await run()];
      expect(second.final).toEqual(first.final);
      expect(second.metrics).toEqual(first.metrics);
    });

    it('allocates nothing from the engine once it has taken a step', async () => {
      const { allocations } = await run({ steps: 4 });
      expect(allocations).toHaveLength(4);
      expect(allocations.slice(2)).toEqual([allocations[1], allocations[1]]);
    });

    it.runIf(host.offers.has('evaluate'))(
      'evaluates forward only, and changes nothing',
      async () => {
        const seen = await run({ steps: 1, evaluate: true });
        const start = seen.hooks().lastIndexOf('metrics');
        const after = seen.events.slice(start + 1).filter(([hook]) => hook !== 'shutdown');
        const plans = after.flatMap(([hook, event]) => (hook === 'planStep' ? [event] : []));
        expect(plans.length).toBeGreaterThan(0);
        for (const plan of plans) expect(plan).toMatchObject({ training: false, step: 1 });
        const passes = after.flatMap(([hook, event]) =>
          ['acquire', 'forward', 'backward', 'release'].includes(hook)
            ? [`${hook} ${(event as { pass: string }).pass}`]
            : [],
        );
        const segment = ['acquire forward', 'forward forward', 'release forward'];
        const count = seen.host!.segments.length * plans.length;
        expect(passes).toEqual(Array.from({ length: count }, () => segment).flat());
        expect(seen.final).toEqual((await run({ steps: 1 })).final);
      },
    );

    describe.runIf(host.offers.has('checkpoint'))('checkpoints', () => {
      it('resume as if training had never stopped', async () => {
        const whole = await run({ steps: 4 });
        const directory = folder();
        await run({ steps: 2, saveTo: directory });
        const rest = await run({ steps: 4, resumeFrom: directory });
        expect(rest.metrics).toEqual(whole.metrics.slice(2));
        expect(rest.final).toEqual(whole.final);
      });

      it("carry what a plugin adds under its own key, beside the host's", async () => {
        const directory = folder();
        const saved = await run({ steps: 1, saveTo: directory, remember: 'a thing' });
        const event = saved.events.find(([hook]) => hook === 'saveCheckpoint')![1];
        expect(event).toMatchObject({ tag: expect.any(String), state: expect.any(Object) });
        const loaded = await run({ steps: 2, resumeFrom: directory });
        expect(loaded.remembered).toBe('a thing');
        const loads = loaded.hooks().filter((hook) => hook === 'loadCheckpoint');
        expect(loads).toHaveLength(1);
        expect(loaded.hooks().indexOf('loadCheckpoint')).toBeGreaterThan(
          loaded.hooks().indexOf('parametersWritten'),
        );
      });
    });

    it.each(['planStep', 'acquire', 'forward', 'backward', 'release', 'metrics'] as const)(
      'ends when a tap on %s throws: the error arrives named, `failed` is told once',
      async (hook) => {
        const broken = new TypeError('broken on purpose');
        const { seen, error } = await attempt({ throwOn: { hook, error: broken } });
        expect(error).toBe(broken);
        expect(error!.message).toBe(`broken on purpose [in observer.${hook}, ${hook}]`);
        const ends = seen.hooks().filter((name) => name === 'failed' || name === 'shutdown');
        expect(ends).toEqual(['failed']);
        expect(seen.failure).toBe(broken);
      },
    );

    it('ends when a tap of a synchronous hook returns a promise', async () => {
      const { error } = await attempt({ promiseOn: 'backward' });
      expect(error).toMatchObject({ code: 'HOOK_ASYNC_TAP' });
    });

    it('refuses two owners of one claim before training', async () => {
      const { seen, error } = await attempt({ claimTwice: true });
      expect(error).toMatchObject({ code: 'CLAIM_CONFLICT' });
      expect(seen.hooks()).toEqual([]);
    });

    it.runIf(host.needs.length > 0)('says which claim it cannot do without', async () => {
      const { error } = await attempt({ claims: 'none' });
      expect(error).toMatchObject({
        code: 'CLAIM_MISSING',
        message: expect.stringContaining(host.needs[0]!),
      });
    });

    it('refuses a strategy that needs what it does not declare, naming the key', async () => {
      const { seen, error } = await attempt({
        apply: ({ host: announced }) => {
          const { capabilities: own } = announced;
          // Of a host that has them all, one is taken away.
          const missing = everyCapability.find((one) => !own.has(one)) ?? 'segments';
          const capabilities = new Set([...own].filter((one) => one !== missing));
          requireCapability({ ...announced, capabilities }, missing, 'some_section.some_key');
        },
      });
      expect(error).toMatchObject({
        code: 'HOST_LACKS_CAPABILITY',
        message: expect.stringMatching(/some_section\.some_key/),
      });
      expect(seen.hooks()).toEqual([]);
    });
  });
}
