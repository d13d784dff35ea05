/** For tests of strategies: a host whose gradients are a formula, so that no model is needed. */
import {
  type Capability,
  elementCount,
  type GradientOwner,
  type Host,
  type HostParameter,
  type OptimizerOutcome,
  type StepPlan,
} from '../../hooks/index.ts';
import type { NativeBuffer, Work } from '../../native/index.ts';
import type { Runtime } from '../../runtime.ts';
import { requireOwner, type Session } from '../../session.ts';

/** Backward completes `tied` last, since its first use is in the first segment. */
const parameters: readonly HostParameter[] = [
  { name: 'head.weight', shape: [7, 5], segments: [2], group: 0 },
  { name: 'middle.weight', shape: [33, 4], segments: [1], group: 0 },
  { name: 'middle.bias', shape: [33], segments: [1], group: 1 },
  { name: 'tied.weight', shape: [50, 3], segments: [0, 2], group: 0 },
  { name: 'first.bias', shape: [1], segments: [0], group: 1 },
];

export class ScriptedHost implements Host {
  readonly name = 'scripted';
  readonly capabilities: ReadonlySet<Capability>;
  readonly segments = ['first', 'middle', 'last'];
  readonly parameters = parameters;

  constructor(lacking: readonly Capability[] = []) {
    const all: Capability[] = [
      'segments',
      'layerSkipping',
      'attentionReplacement',
      'gatheredParameters',
    ];
    this.capabilities = new Set(all.filter((one) => !lacking.includes(one)));
  }
}

/** Drives a session as a host does: hooks, gradients, the optimizer's step. */
export class ScriptedTraining {
  readonly #session: Session;
  readonly #gradients: GradientOwner;
  readonly #sources: ReadonlyMap<string, NativeBuffer>;
  /** The owner's loss scale, as read at every micro batch. */
  readonly lossScales: number[][] = [];
  #step = 0;

  constructor(session: Session) {
    this.#session = session;
    this.#gradients = requireOwner(session, 'gradients');
    const { engine } = session.runtime;
    this.#sources = new Map(
      parameters.map(({ name, shape }) => [
        name,
        engine.allocate(elementCount(shape) * 4, { category: 'activations' }),
      ]),
    );
  }

  /** The same initial values on every rank. */
  async writeParameters(): Promise<void> {
    const { layout, parameters, lifecycle } = this.#session;
    for (const { name, offset } of layout.slots) {
      parameters.write(name, (start, count) =>
        Float32Array.from({ length: count }, (_, at) => Math.sin(offset + start + at)),
      );
    }
    await lifecycle.run('parametersWritten', {});
  }

  async step(microBatches = 2): Promise<OptimizerOutcome> {
    const { lifecycle, runtime, optimizer: recipe } = this.#session;
    const scales: number[] = [];
    let plan: StepPlan | undefined;
    for (let microBatch = 0; microBatch < microBatches; microBatch += 1) {
      const step = this.#step;
      plan = lifecycle.fire('planStep', { training: true, step, microBatch, microBatches });
      scales.push(this.#gradients.lossScale);
      await runtime.engine.wait(this.#microBatch(plan, runtime));
    }
    this.lossScales.push(scales);
    const optimizer = requireOwner(this.#session, 'optimizerStep');
    const learningRates = recipe.groups.map(({ lr }) => lr);
    await runtime.engine.wait(optimizer.enqueue({ plan: plan!, learningRates }));
    const outcome = optimizer.outcome();
    this.#step += 1;
    const { gradientNorm, overflows, skipped, lossScale } = outcome;
    if (skipped) lifecycle.fire('stepSkipped', { step: this.#step, overflows });
    lifecycle.fire('metrics', {
      step: this.#step,
      loss: 1 / this.#step,
      learningRate: learningRates[0]!,
      gradientNorm,
      tokens: microBatches * runtime.worldSize,
      samples: microBatches * runtime.worldSize,
      skipped,
      lossScale,
    });
    return outcome;
  }

  /** For resuming: the next step is `step` + 1. */
  resumeAt(step: number): void {
    this.#step = step;
  }

  #microBatch(plan: StepPlan, { engine, rank, worldSize }: Runtime): Work {
    const { lifecycle } = this.#session;
    const { parameters: owner } = this.#session;
    let last: Work = 0;
    for (const segment of [0, 1, 2]) {
      const event = { plan, segment, pass: 'forward' } as const;
      lifecycle.fire('acquire', event);
      // Something to run, in the order that parameters ask for.
      const buffer = this.#sources.get('first.bias')!;
      const nothing = { buffer, byteOffset: 0, count: 0, dtype: 'float32' } as const;
      last = engine.fill(nothing, 0, owner.ready(segment, 'forward'));
      lifecycle.fire('forward', { ...event, work: last });
      lifecycle.fire('release', { ...event, work: last });
    }
    const scale = this.#gradients.lossScale / (worldSize * plan.microBatches);
    const fresh = plan.microBatch === 0 || !this.#gradients.accumulatesLocally;
    for (const segment of [2, 1, 0]) {
      const event = { plan, segment, pass: 'backward' } as const;
      lifecycle.fire('acquire', event);
      const after = [...owner.ready(segment, 'backward'), ...this.#gradients.ready(segment)];
      for (const parameter of parameters.filter(({ segments }) => segments.includes(segment))) {
        const { name, shape, segments } = parameter;
        const count = elementCount(shape);
        const buffer = this.#sources.get(name)!;
        // Written once a micro batch: the one before has been waited for.
        const firstUse = segment === segments.at(-1);
        if (firstUse) fillGradient(buffer, plan, rank, count);
        const source = { buffer, byteOffset: 0, count, dtype: 'float32' } as const;
        const target = { ...this.#gradients.location(name), count, dtype: 'float32' } as const;
        last = engine.axpby(source, target, scale, fresh && firstUse ? 0 : 1, after);
      }
      lifecycle.fire('backward', { ...event, work: last });
      lifecycle.fire('release', { ...event, work: last });
    }
    return last;
  }
}

function fillGradient(buffer: NativeBuffer, plan: StepPlan, rank: number, count: number): void {
  const values = new Float32Array(buffer.view(), 0, count);
  for (let at = 0; at < count; at += 1) {
    values[at] = Math.cos(at + 3 * plan.step + 5 * plan.microBatch + 7 * rank);
  }
}
