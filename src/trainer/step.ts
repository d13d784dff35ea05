import { DeepSpeedError } from '../errors.ts';
import type { StepMetrics } from '../hooks/index.ts';
import type { MicroBatch } from './batch-source.ts';
import type { Training } from './setup.ts';

/**
 * One optimizer step: all micro batches of this rank, then the reduction and the update.
 *
 * The loss is normalised by the targets of the whole global batch, which the ranks count together
 * before the first backward: a step is then the same at any number of ranks and micro batches, padded
 * or not.
 *
 * @param step optimizer steps before this one
 * @param skippedSteps how many of them were skipped: those did not advance the schedule
 */
export async function trainStep(
  training: Training,
  step: number,
  parts: readonly MicroBatch[],
  skippedSteps = 0,
): Promise<StepMetrics> {
  const { args, recipe, host, session, gradients, optimizer, runtime, scalars } = training;
  const { lifecycle } = session;
  const batches = parts.map((part) => training.collate(part, recipe.microBatchSize));
  const [targets, samples] = (await scalars.sum([
    sum(batches.map((batch) => batch.targets)),
    sum(batches.map((batch) => batch.samples)),
  ])) as [number, number];
  if (targets === 0) {
    throw new DeepSpeedError(
      'DATASET_INVALID',
      `step ${step + 1}: the global batch has no target tokens; every label is -100 or padding`,
    );
  }
  const scale = gradients.lossScale / targets;
  let lossSum = 0;
  for (const [microBatch, batch] of batches.entries()) {
    const plan = lifecycle.fire('planStep', {
      training: true,
      step,
      microBatch,
      microBatches: batches.length,
    });
    lossSum += await host.trainMicroBatch(plan, batch, scale, args.seed);
  }
  const { lr, betas } = recipe.schedule.at(step - skippedSteps);
  const plan = {
    training: true,
    step,
    microBatch: batches.length - 1,
    microBatches: batches.length,
  };
  const work = optimizer.enqueue({
    plan,
    learningRates: recipe.optimizer.groups.map(() => lr),
    ...(betas && { betas }),
  });
  await runtime.engine.wait(work);
  const { saving } = training;
  const [totalLoss, unready] = (await scalars.sum([
    lossSum,
    saving && !saving.isReady ? 1 : 0,
  ])) as [number, number];
  const loss = totalLoss / targets;
  const { gradientNorm, overflows, skipped, lossScale } = optimizer.outcome();
  const failure = notFinite(step, loss, skipped ? 0 : overflows);
  if (failure) {
    await saving?.finish();
    throw failure;
  }
  await saving?.afterStep(unready === 0);
  const metrics: StepMetrics = {
    step: step + 1,
    loss,
    learningRate: lr,
    gradientNorm,
    tokens: targets,
    samples,
    skipped,
    lossScale,
  };
  if (skipped) lifecycle.fire('stepSkipped', { step: step + 1, overflows });
  lifecycle.fire('metrics', metrics);
  return metrics;
}

/**
 * Arithmetic is fp32 at every storage type: a loss that is not finite never heals, nor does a gradient
 * unless the precision says that 16 bits may overflow. Stop before it reaches a checkpoint.
 */
function notFinite(step: number, loss: number, overflows: number): DeepSpeedError | null {
  if (Number.isFinite(loss) && overflows === 0) return null;
  const what = Number.isFinite(loss)
    ? `${overflows} gradient elements are not finite`
    : `the loss is ${loss}`;
  return new DeepSpeedError(
    'LOSS_NOT_FINITE',
    `step ${step + 1}: ${what}; the weights are as after step ${step}`,
    {
      data: { step: step + 1 },
    },
  );
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
