/** For tests: a lowered training plan run in onnxruntime-node, the simplest way that is possible. */
import type { Graph, Tensor } from '../../graph/ir.ts';
import { planTraining, type PlannedSegment, type TrainingPlan } from '../../graph/plan.ts';
import { fromNumbers, toNumbers, zeros } from '../../graph/tensor.ts';
import { load, type Runner, type Values } from '../../graph/testing.ts';

export interface StepResult {
  /** Σ losses / counted labels. */
  loss: number;
  gradients: Map<string, number[]>;
}

/** Loss and gradients of `graph`, for any parameters and batches of one shape. */
export class PlanRunner {
  private readonly plan: TrainingPlan;
  private readonly sessions = new Map<Graph, Promise<Runner>>();

  constructor(graph: Graph, rows: number, length: number, fuse: boolean) {
    const shape = [rows, length];
    const parameters = new Set(
      [...graph.initializers.keys()].filter((name) => /^(transformer|model|lm_head)\./.test(name)),
    );
    this.plan = planTraining(graph, {
      inputShapes: { input_ids: shape, labels: shape },
      trainable: (name) => parameters.has(name),
      fuse,
      lower: 'all',
    });
  }

  /** What the plan calls its parts: segments, and which fusions it made. */
  get segments(): readonly PlannedSegment[] {
    return this.plan.segments;
  }

  get replaced(): readonly string[] {
    return this.plan.replaced;
  }

  async step(parameters: ReadonlyMap<string, Tensor>, batch: Values): Promise<StepResult> {
    const labels = toNumbers(batch.labels!);
    const counted = labels.filter((label) => label !== -100).length;
    const values: Values = { ...Object.fromEntries(parameters), ...batch };
    values['grad.loss'] = fromNumbers(
      'float32',
      batch.labels!.dims,
      labels.map(() => 1 / counted),
    );
    if (this.plan.prologue !== undefined) {
      await this.run(this.plan.prologue.graph, this.plan.prologue, values);
    }
    const { segments, programs } = this.plan;
    for (const segment of segments) {
      await this.run(programs.get(segment.program)!.forward, segment.forward, values);
    }
    for (const segment of segments.toReversed()) {
      const { backward } = programs.get(segment.program)!;
      if (backward !== null) await this.run(backward, segment.backward!, values);
    }
    const loss = toNumbers(values.loss!).reduce((a, b) => a + b, 0) / counted;
    const gradients = [...parameters.keys()].map((name): [string, number[]] => [
      name,
      toNumbers(values[`gradient_buffer.${name}`]!),
    ]);
    return { loss, gradients: new Map(gradients) };
  }

  private async run(
    graph: Graph,
    binding: Pick<PlannedSegment['forward'], 'inputs' | 'outputs'>,
    values: Values,
  ): Promise<void> {
    if (!this.sessions.has(graph)) this.sessions.set(graph, load(graph));
    const feeds = binding.inputs.map(({ formal, actual, kind, shape, firstUse }) => {
      if (kind === 'first') return [formal, fromNumbers('int32', [1], [firstUse ? 1 : 0])];
      if (kind === 'buffer') return [formal, values[actual] ?? zeros('float32', shape)];
      return [formal, values[actual]];
    });
    const results = await (await this.sessions.get(graph)!)(Object.fromEntries(feeds));
    for (const { formal, actual, kind, parameter } of binding.outputs) {
      values[kind === 'updated' ? `gradient_buffer.${parameter}` : actual] = results[formal]!;
    }
  }
}
