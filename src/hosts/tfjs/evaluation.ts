/** `evaluate`, `evaluateDataset` and validation: every batch is split over ranks like those of training. */
import { gatherJsonSync } from '../../strategies/agree.ts';
import { type HostContext, numberOf, sliceRows } from './context.ts';
import type { BatchFunction, LayersModel } from './library.ts';
import { checkModel } from './model-check.ts';
import { nameOf, ownFunctions, tryOnParts } from './own-functions.ts';
import { rowsOfRank } from './rows.ts';
import type { Settings } from './settings.ts';
import { differingAgain, differingNumbers, requireNone } from './verify.ts';

/**
 * The test function of a model, split over ranks; its first batch of several rows is compared with the whole one.
 *
 * @param settingsOf asked for with the first batch
 */
export function splitEvaluation(
  context: HostContext,
  model: LayersModel,
  original: BatchFunction,
  settingsOf: () => Pick<Settings, 'declared' | 'verifyFirstBatch'>,
): BatchFunction {
  const begin = () => {
    const { declared, verifyFirstBatch } = settingsOf();
    const own = ownFunctions(model, context.builtIn);
    checkModel(model, declared, verifyFirstBatch ? [] : own);
    return {
      declared,
      own: own.filter(({ name }) => !declared.has(name)),
      verifies: verifyFirstBatch,
    };
  };
  let setting: ReturnType<typeof begin> | undefined;
  let batches = 0;
  return (batch) => {
    const { core, agreement, rank, worldSize } = context;
    setting ??= begin();
    batches += 1;
    const total = batch[0]!.shape[0]!;
    agreement.on({
      what: `batch ${batches} of an evaluation of ${model.name}`,
      rows: total,
      digest: agreement.digest(batch),
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
    // One row cannot be split.
    if (setting.verifies && total > 1) {
      const { declared, own } = setting;
      const names = namesOf(model, declared);
      const [whole, again] = [compute(batch), compute(batch)];
      const found = [
        ...differingAgain(names, whole, again),
        ...differingNumbers(names, whole, totals),
        ...tryOnParts(core, model, own, batch).differences,
      ];
      requireNone(model.name, gatherJsonSync(context.runtime, found));
      setting.verifies = false;
    }
    return Array.from(totals, (value) => core.scalar(value));
  };
}

/** What a test function returns: a running total for each loss, then the metrics; null: vouched for. */
function namesOf(model: LayersModel, declared: ReadonlySet<string>): (string | null)[] {
  return [
    ...model.lossFunctions.map((_, index) => (index === 0 ? 'loss' : `loss ${index}`)),
    ...model.metricsTensors.map(([metric], index) =>
      declared.has(nameOf(metric)) ? null : model.metricsNames[index + 1]!,
    ),
  ];
}
