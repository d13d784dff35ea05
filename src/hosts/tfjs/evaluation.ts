/** `evaluate`, `evaluateDataset` and validation: every batch is split over ranks like those of training. */
import { gatherJsonSync } from '../../strategies/agree.ts';
import { type HostContext, numberOf, sliceRows } from './context.ts';
import type { BatchFunction, LayersModel } from './library.ts';
import { rowsOfRank } from './rows.ts';
import { differingNumbers, requireNone } from './verify.ts';

export interface EvaluationOptions {
  verifies(model: LayersModel): boolean;
  /** Refuses models that cannot be split; called before the first batch. */
  check(model: LayersModel): void;
}

/** The test function of a model, split over ranks; its first batch is compared with the whole one. */
export function splitEvaluation(
  context: HostContext,
  model: LayersModel,
  original: BatchFunction,
  options: EvaluationOptions,
): BatchFunction {
  let first = true;
  let batches = 0;
  return (batch) => {
    const { core, agreement, rank, worldSize } = context;
    if (first) options.check(model);
    batches += 1;
    const total = batch[0]!.shape[0]!;
    agreement.on({
      what: `batch ${batches} of an evaluation of ${model.name}`,
      rows: total,
      digest: agreement.digest(batch),
      learningRate: 0,
    });
    const rows = rowsOfRank(total, rank, worldSize);
    const compute = (parts: typeof batch) => {
      const outputs = original(parts);
      const values = outputs.map(numberOf);
      core.dispose(outputs);
      return values;
    };
    let sums = new Array<number>(model.lossFunctions.length + model.metricsTensors.length).fill(0);
    if (rows.count > 0) {
      const parts = batch.map((tensor) => tensor && sliceRows(core, tensor, rows));
      sums = compute(parts).map((value) => (value * rows.count) / total);
      for (const [index, tensor] of parts.entries()) if (tensor !== batch[index]) tensor?.dispose();
    }
    const totals = context.sum(sums);
    if (first && options.verifies(model)) {
      const found = differingNumbers(namesOf(model), compute(batch), totals);
      requireNone(model.name, gatherJsonSync(context.runtime, found));
    }
    first = false;
    return Array.from(totals, (value) => core.scalar(value));
  };
}

/** What a test function returns: a running total for each loss, then the metrics. */
function namesOf(model: LayersModel): string[] {
  const metrics = model.metricsNames.slice(1);
  return [
    ...model.lossFunctions.map((_, index) => (index === 0 ? 'loss' : `loss ${index}`)),
    ...metrics,
  ];
}
