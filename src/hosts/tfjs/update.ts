/** The end of a step: what the optimizer makes of gradients that all ranks have brought together. */
import { gatherJsonSync } from '../../strategies/agree.ts';
import { DeepSpeedError } from '../../errors.ts';
import type { HostContext } from './context.ts';
import type { NamedGradients } from './library.ts';
import type { OptimizerSession } from './optimizer-session.ts';

export interface StepSums {
  /** Rank 0's. */
  learningRate: number;
  /** This rank's gradients, one entry for each micro batch that it had rows of. */
  kept: readonly NamedGradients[];
  /** Of all ranks. */
  loss: number;
  samples: number;
}

export function update(context: HostContext, session: OptimizerSession, sums: StepSums): void {
  if (!session.adapter) {
    applyOwn(context, session);
    session.steps += 1;
    return;
  }
  const { learningRate, kept, loss, samples } = sums;
  session.requireUnwritten();
  const { steps: step, settings, arrays, adapter } = session;
  adapter.prepare(learningRate);
  const betas = settings.schedule?.at(step).betas;
  const { microBatches } = settings;
  const { gradientNorm, overflows, skipped, lossScale } = arrays.step({
    plan: { training: true, step, microBatch: microBatches - 1, microBatches },
    learningRates: [adapter.hyper.lr],
    ...(betas && { betas }),
  });
  if (overflows > 0 && !skipped) nameNonFinite(context, session, kept);
  const { lifecycle } = arrays.session;
  if (skipped) {
    session.steps += 1;
    lifecycle.fire('stepSkipped', { step: step + 1, overflows });
  } else session.stepped();
  lifecycle.fire('metrics', {
    step: step + 1,
    loss,
    learningRate,
    gradientNorm,
    tokens: samples,
    samples,
    skipped,
    lossScale,
  });
}

/** A user's own optimizer gets the averaged gradients and runs as it is, on every rank. */
function applyOwn({ core, runtime }: HostContext, session: OptimizerSession): void {
  const { gradients, session: inner } = session.arrays;
  const { whole, after } = gradients.reduced();
  for (const work of after) runtime.engine.waitSync(work);
  const scale = 1 / gradients.lossScale;
  core.tidy(() => {
    const list = session.variables.map(({ name, shape }) => {
      const { offset, count } = inner.layout.byName.get(name)!;
      const { buffer, byteOffset } = whole!;
      const values = new Float32Array(buffer.view(), byteOffset + offset * 4, count).slice();
      const tensor = core.tensor(values, shape);
      if (session.lacksGradient(name)) return { name, tensor: undefined };
      return { name, tensor: scale === 1 ? tensor : core.mul(tensor, scale) };
    });
    session.optimizer.applyGradients(list);
  });
}

/** Which rank's gradients were not finite: all ranks stop with the same words. */
function nameNonFinite(
  { runtime }: HostContext,
  session: OptimizerSession,
  kept: readonly NamedGradients[],
): never {
  const own = session.variables.find(({ name }) =>
    kept.some(
      (grads) => !(grads[name]?.dataSync() as Float32Array | undefined)?.every(Number.isFinite),
    ),
  );
  const all = gatherJsonSync(runtime, own?.name ?? null);
  const named = all.flatMap((name, rank) => (name ? [`${name} on rank ${rank}`] : []));
  throw new DeepSpeedError(
    'LOSS_NOT_FINITE',
    `step ${session.steps + 1}: gradients are not finite: ${named.join(', ') || 'their sum over ranks overflows'}`,
    { data: { step: session.steps + 1, variables: all } },
  );
}
