import { AsyncSeriesHook, SyncHook, SyncWaterfallHook } from 'tapable';
import { DeepSpeedError } from '../errors.ts';
import type { ColdHooks, HookName, HotHooks, StepPlan } from './events.ts';
import { type Stage, stageOrder } from './stages.ts';
import type { Tracer } from './trace.ts';

type HotTap<K extends keyof HotHooks> = (
  event: HotHooks[K],
) => K extends 'planStep' ? StepPlan : void;
type ColdTap<K extends keyof ColdHooks> = (event: ColdHooks[K]) => Promise<void>;

/** The signature a tap must have on hook `K`. */
export type Tap<K extends HookName> = K extends keyof HotHooks
  ? HotTap<K>
  : K extends keyof ColdHooks
    ? ColdTap<K>
    : never;

interface AnyHook {
  tap(options: { name: string; stage: number }, fn: unknown): void;
  tapPromise?(options: { name: string; stage: number }, fn: unknown): void;
  readonly taps: readonly { name: string; stage?: number }[];
}

const hotNames = new Set<string>([
  'planStep',
  'acquire',
  'forward',
  'backward',
  'release',
  'metrics',
  'stepSkipped',
] satisfies (keyof HotHooks)[]);

/**
 * Every hook of one session. The kind is the contract: hot hooks are synchronous and fire when work is
 * enqueued, cold hooks are awaited one tap after the other. Taps go through `tap`, never to tapable
 * itself: it would put a tap with a misspelt `before` first and let a returned promise through.
 */
export class Lifecycle {
  readonly #hooks = {
    planStep: new SyncWaterfallHook<[StepPlan]>(['plan'], 'planStep'),
    acquire: new SyncHook<[HotHooks['acquire']]>(['event'], 'acquire'),
    forward: new SyncHook<[HotHooks['forward']]>(['event'], 'forward'),
    backward: new SyncHook<[HotHooks['backward']]>(['event'], 'backward'),
    release: new SyncHook<[HotHooks['release']]>(['event'], 'release'),
    metrics: new SyncHook<[HotHooks['metrics']]>(['metrics'], 'metrics'),
    stepSkipped: new SyncHook<[HotHooks['stepSkipped']]>(['event'], 'stepSkipped'),
    setup: new AsyncSeriesHook<[ColdHooks['setup']]>(['event'], 'setup'),
    parametersWritten: new AsyncSeriesHook<[ColdHooks['parametersWritten']]>(
      ['event'],
      'parametersWritten',
    ),
    evaluate: new AsyncSeriesHook<[ColdHooks['evaluate']]>(['event'], 'evaluate'),
    saveCheckpoint: new AsyncSeriesHook<[ColdHooks['saveCheckpoint']]>(['event'], 'saveCheckpoint'),
    loadCheckpoint: new AsyncSeriesHook<[ColdHooks['loadCheckpoint']]>(['event'], 'loadCheckpoint'),
    failed: new AsyncSeriesHook<[ColdHooks['failed']]>(['event'], 'failed'),
    shutdown: new AsyncSeriesHook<[ColdHooks['shutdown']]>(['event'], 'shutdown'),
  };
  readonly #tracer: Tracer | undefined;

  constructor(tracer?: Tracer) {
    this.#tracer = tracer;
  }

  /**
   * Adds a tap.
   *
   * @param stage decides the order on the hook, see stages.ts
   * @param name `plugin.action`, e.g. `zero.reduceScatter`: what traces and errors print
   */
  tap<K extends HookName>(hook: K, stage: Stage, name: string, fn: Tap<K>): void {
    const target = this.#hooks[hook] as unknown as AnyHook;
    const options = { name, stage: stageOrder(stage) };
    if (hotNames.has(hook)) target.tap(options, this.#guardHot(hook, name, fn as never));
    else target.tapPromise!(options, this.#guardCold(hook, name, fn as never));
  }

  /** Fires a hot hook; returns the plan for `planStep`. */
  fire<K extends keyof HotHooks>(
    hook: K,
    event: HotHooks[K],
  ): K extends 'planStep' ? StepPlan : void {
    return (this.#hooks[hook] as unknown as { call(event: unknown): never }).call(event);
  }

  /** Runs a cold hook to its end. */
  async run<K extends keyof ColdHooks>(hook: K, event: ColdHooks[K]): Promise<void> {
    await (this.#hooks[hook] as unknown as AsyncSeriesHook<[unknown]>).promise(event);
  }

  /** Tap names by hook in firing order: what `ds_report` and the conformance suite look at. */
  taps(): Record<HookName, string[]> {
    return Object.fromEntries(
      Object.entries(this.#hooks).map(([name, hook]) => [name, hook.taps.map((tap) => tap.name)]),
    ) as Record<HookName, string[]>;
  }

  #guardHot(hook: HookName, name: string, fn: (event: unknown) => unknown) {
    return (event: unknown) => {
      const end = this.#tracer?.begin(hook, name);
      let result: unknown;
      try {
        result = fn(event);
      } catch (error) {
        throw named(hook, name, error);
      } finally {
        end?.();
      }
      if (isThenable(result)) {
        // The hot path does not wait; a promise here would be silently dropped work.
        (result as Promise<unknown>).then?.(undefined, () => {});
        throw new DeepSpeedError(
          'HOOK_ASYNC_TAP',
          `tap "${name}" on the synchronous hook ${hook} returned a promise`,
          { data: { hook, tap: name } },
        );
      }
      return result;
    };
  }

  #guardCold(hook: HookName, name: string, fn: (event: unknown) => Promise<void>) {
    return async (event: unknown) => {
      const end = this.#tracer?.begin(hook, name);
      try {
        await fn(event);
      } catch (error) {
        throw named(hook, name, error);
      } finally {
        end?.();
      }
    };
  }
}

/** A promise, or what `await` takes for one. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { then?: unknown } | null)?.then === 'function';
}

/** Says in which hook and tap an error happened, once, without changing its type or code. */
function named(hook: string, tap: string, error: unknown): unknown {
  if (error instanceof Error && !('tap' in error)) {
    Object.assign(error, { hook, tap });
    error.message = `${error.message} [in ${tap}, ${hook}]`;
  }
  return error;
}
