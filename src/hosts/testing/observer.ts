/** For tests: plain data parallelism that writes down everything a host does. */
import {
  Claims,
  type ClaimTypes,
  type GradientOwner,
  type Host,
  type HookName,
  type OptimizerStepContext,
  type OptimizerStepOwner,
  type SegmentEvent,
  type StepMetrics,
  type StepPlan,
} from '../../hooks/index.ts';
import { applyCheckpoint } from '../../strategies/checkpoint/index.ts';
import type { StrategyContext, StrategyPlugin } from '../../strategies/plugin.ts';
import { applyZero } from '../../strategies/zero/index.ts';

export interface ObserverOptions {
  /** ZeRO stage; 0 lets micro batches add up in place, 2 does not. */
  stage?: 0 | 2;
  /** A factor on the gradients that the optimizer divides out. */
  averaging?: number;
  planStep?(plan: StepPlan): StepPlan;
  throwOn?: { hook: HotHook; error: Error };
  promiseOn?: HotHook;
  /** Stored in checkpoints under a key of the observer's. */
  remember?: string;
  claimTwice?: boolean;
  claims?: 'none';
  /** Runs first in the strategy's `apply`. */
  apply?(context: StrategyContext): void;
}

type HotHook = 'planStep' | 'acquire' | 'forward' | 'backward' | 'release' | 'metrics';

/** What a host asked of the owners, and two hooks to place it by. */
export type OwnerCall =
  | { owner: 'location'; parameter: string }
  | { owner: 'ready' | 'backward'; segment: number }
  | { owner: 'enqueue' | 'outcome' | 'metrics' };

type Values = ReadonlyMap<string, Float32Array>;

/** What was seen, in the order in which it happened. */
export class Observed {
  readonly events: [hook: HookName, event: unknown][] = [];
  /** The very plans of segment events: identity matters. */
  readonly plans: StepPlan[] = [];
  readonly calls: OwnerCall[] = [];
  readonly metrics: StepMetrics[] = [];
  readonly optimizerSteps: OptimizerStepContext[] = [];
  /** Of all parameters, summed over micro batches, by step; stage 0 only. */
  readonly gradients: Values[] = [];
  /** Engine allocations so far, after each step. */
  readonly allocations: number[] = [];
  host: Host | undefined;
  groups = 0;
  /** Parameters as the host wrote them, and at shutdown. */
  initial: Values | undefined;
  final: Values | undefined;
  remembered: unknown;
  failure: unknown;

  hooks(): HookName[] {
    return this.events.map(([hook]) => hook);
  }
}

const stateKey = 'observer';

export function observedStrategy(options: ObserverOptions): {
  plugin: StrategyPlugin;
  seen: Observed;
} {
  const seen = new Observed();
  const apply = (context: StrategyContext): void => {
    seen.host = context.host;
    seen.groups = context.optimizer.groups.length;
    options.apply?.(context);
    if (options.claims !== 'none') {
      const stage = options.stage ?? 0;
      const watched = { ...context, claims: new WatchedClaims(context, seen, stage === 0) };
      const zero = applyZero(watched, {
        stage,
        reduceBucketSize: 1 << 20,
        allgatherBucketSize: 1 << 20,
        overlap: false,
        reduceScatter: stage > 0,
        averaging: options.averaging ?? 1,
      });
      applyCheckpoint(context, zero);
      if (options.claimTwice) {
        context.claims.claim('optimizerStep', 'other', context.claims.owner('optimizerStep')!);
      }
    }
    tapAll(context, seen, options);
  };
  return { plugin: { name: 'observer', apply }, seen };
}

/** Hands claims on with owners that write down what they are asked. */
class WatchedClaims extends Claims {
  readonly #context: StrategyContext;
  readonly #seen: Observed;
  readonly #gradients: boolean;

  constructor(context: StrategyContext, seen: Observed, gradients: boolean) {
    super();
    this.#context = context;
    this.#seen = seen;
    this.#gradients = gradients;
  }

  override claim<K extends keyof ClaimTypes>(name: K, plugin: string, owner: ClaimTypes[K]): void {
    const watched =
      name === 'gradients'
        ? this.#watchGradients(owner as GradientOwner)
        : this.#watchOptimizer(owner as OptimizerStepOwner);
    this.#context.claims.claim(name, plugin, watched as ClaimTypes[K]);
  }

  #watchGradients(owner: GradientOwner): GradientOwner {
    const { calls } = this.#seen;
    return {
      location(parameter) {
        calls.push({ owner: 'location', parameter });
        return owner.location(parameter);
      },
      ready(segment) {
        calls.push({ owner: 'ready', segment });
        return owner.ready(segment);
      },
      accumulatesLocally: owner.accumulatesLocally,
      get lossScale() {
        return owner.lossScale;
      },
      reduced: () => owner.reduced(),
    };
  }

  #watchOptimizer(owner: OptimizerStepOwner): OptimizerStepOwner {
    return {
      enqueue: (step) => {
        this.#seen.calls.push({ owner: 'enqueue' });
        this.#seen.optimizerSteps.push(step);
        if (this.#gradients) this.#seen.gradients.push(this.#copyGradients());
        return owner.enqueue(step);
      },
      outcome: () => {
        this.#seen.calls.push({ owner: 'outcome' });
        return owner.outcome();
      },
    };
  }

  /** The host waits for each micro batch, so backward has ended here. */
  #copyGradients(): Values {
    const { layout, claims } = this.#context;
    const owner = claims.owner('gradients')!;
    return new Map(
      layout.slots.map(({ name, count }) => {
        const { buffer, byteOffset } = owner.location(name);
        return [name, new Float32Array(buffer.view(), byteOffset, count).slice()];
      }),
    );
  }
}

function tapAll(context: StrategyContext, seen: Observed, options: ObserverOptions): void {
  const { lifecycle, engine } = context;
  const note = (hook: HookName, event: unknown) => void seen.events.push([hook, event]);
  const misbehave = (hook: HotHook): unknown => {
    if (options.throwOn?.hook === hook) throw options.throwOn.error;
    return options.promiseOn === hook ? Promise.resolve() : undefined;
  };
  lifecycle.tap('planStep', 'observe', 'observer.planStep', (given) => {
    misbehave('planStep');
    note('planStep', given);
    return options.planStep?.(given) ?? given;
  });
  for (const hook of ['acquire', 'forward', 'backward', 'release'] as const) {
    lifecycle.tap(hook, 'observe', `observer.${hook}`, (event: SegmentEvent) => {
      const { plan, segment, pass } = event;
      note(hook, { plan, segment, pass });
      seen.plans.push(plan);
      if (hook === 'backward') seen.calls.push({ owner: 'backward', segment });
      return misbehave(hook) as undefined;
    });
  }
  lifecycle.tap('metrics', 'observe', 'observer.metrics', (metrics) => {
    note('metrics', metrics);
    seen.calls.push({ owner: 'metrics' });
    seen.metrics.push(metrics);
    seen.allocations.push(engine.memory().allocations);
    misbehave('metrics');
  });
  lifecycle.tap('setup', 'observe', 'observer.setup', async (event) => note('setup', event));
  lifecycle.tap('parametersWritten', 'observe', 'observer.parametersWritten', async (event) => {
    note('parametersWritten', event);
    seen.initial = copyParameters(context);
  });
  lifecycle.tap('saveCheckpoint', 'plan', 'observer.saveCheckpoint', async (event) => {
    note('saveCheckpoint', event);
    if (options.remember !== undefined) event.state[stateKey] = options.remember;
  });
  lifecycle.tap('loadCheckpoint', 'observe', 'observer.loadCheckpoint', async (event) => {
    note('loadCheckpoint', event);
    seen.remembered = event.state[stateKey];
  });
  lifecycle.tap('failed', 'observe', 'observer.failed', async (event) => {
    note('failed', event);
    seen.failure = event.error;
  });
  lifecycle.tap('shutdown', 'observe', 'observer.shutdown', async (event) => {
    note('shutdown', event);
    seen.final = copyParameters(context);
  });
}

function copyParameters({ layout, parameters }: StrategyContext): Values {
  return new Map(
    layout.slots.map(({ name, offset, count }) => [
      name,
      new Float32Array(parameters.view(), offset * 4, count).slice(),
    ]),
  );
}
